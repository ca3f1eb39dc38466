/// Disks and network cards as flags and configuration files write them.

import ArgumentParser
import Machine
import Virtio

/// `FILE[,ro][,serial=TEXT]`.
struct DiskOptions: Equatable {
    var path: String
    var isReadOnly = false
    var serial = ""

    init(path: String, isReadOnly: Bool = false, serial: String = "") {
        self.path = path
        self.isReadOnly = isReadOnly
        self.serial = serial
    }

    init(text: String) throws {
        let words = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        self.init(path: words[0])
        for word in words.dropFirst() {
            if word == "ro" {
                isReadOnly = true
            } else if word.hasPrefix("serial=") {
                serial = String(word.dropFirst(7))
            } else {
                throw ValidationError("'\(word)' is nothing that a disk has: write FILE[,ro][,serial=TEXT].")
            }
        }
        if let problem { throw ValidationError(problem) }
    }

    /// What is wrong with it, nil when nothing is.
    var problem: String? {
        if path.isEmpty { return "A disk needs a file." }
        if serial.utf8.count > 20 || !serial.utf8.allSatisfy({ (0x20..<0x7F).contains($0) }) {
            return "A disk's serial number has at most 20 ASCII characters, and '\(serial)' is none."
        }
        return nil
    }

    var device: VirtualDevice { .disk(path: path, isReadOnly: isReadOnly, serial: serial) }
}

/// `tap=NAME[,mac=ADDRESS]`.
struct NetworkOptions: Equatable {
    var tap: String
    /// Nil to have one made up.
    var mac: MACAddress?

    init(tap: String, mac: MACAddress? = nil) {
        self.tap = tap
        self.mac = mac
    }

    init(text: String) throws {
        self.init(tap: "")
        for word in text.split(separator: ",", omittingEmptySubsequences: false) {
            if word.hasPrefix("tap=") {
                tap = String(word.dropFirst(4))
            } else if word.hasPrefix("mac=") {
                mac = try Self.mac(String(word.dropFirst(4)))
            } else {
                throw ValidationError("'\(word)' is nothing that a network card has: write tap=NAME[,mac=ADDRESS].")
            }
        }
        if let problem { throw ValidationError(problem) }
    }

    static func mac(_ text: String) throws -> MACAddress {
        guard let address = MACAddress(text) else {
            throw ValidationError("'\(text)' is no address of a single network card, such as 52:54:00:12:34:56.")
        }
        return address
    }

    var problem: String? {
        // The kernel's limit for interface names.
        (1...15).contains(tap.utf8.count) && !tap.contains("/")
            ? nil : "A network card needs the name of a tap interface (tap=NAME, up to 15 characters), not '\(tap)'."
    }

    /// Nil never: an address can always be made up.
    var device: VirtualDevice? { (mac ?? VirtualDevice.randomMAC()).map { .network(tap: tap, mac: $0) } }
}
