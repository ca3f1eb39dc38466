/// The configuration file: YAML that says what the flags say, by the same names.

import ArgumentParser
import KVM
import Logging
import Machine
import Units
import Virtio
import Yams

extension RunConfiguration {
    /// Longer files are no configuration of a VM.
    static let maximumFileByteCount = 64 << 10

    /// Reads a file; `-` is standard input.
    init(file path: String) throws {
        let bytes: [UInt8]
        do {
            bytes = try InputFile.read(path, limit: Self.maximumFileByteCount)
        } catch let error as CommandError {
            throw ValidationError(error.message)
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw ValidationError("\(path) is no text in UTF-8.")
        }
        try self.init(yaml: text, file: path)
    }

    /// - Parameter file: the file's name, for messages.
    init(yaml: String, file: String) throws {
        self.init()
        let root: Node?
        do {
            root = try Yams.compose(yaml: yaml)
        } catch {
            throw ValidationError("\(file) is no YAML: \(error)")
        }
        guard let root else { return }
        let map = try YAMLMap(root, in: file, what: "the configuration")
        for (key, node) in map.entries {
            let value = YAMLValue(node, key: key, in: file)
            switch key {
            case "name": name = try value.text()
            case "memory": memory = try value.parsed(parseSize)
            case "cpus": cpus = try value.number()
            case "cpu": cpu = try value.text()
            case "guest": guest = try value.choice()
            case "guest-options": guestOptions = try value.text()
            case "kernel": kernel = try value.text()
            case "initrd": initrd = try value.text()
            case "append": append = try value.text()
            case "disks": disks = try value.list().map { try Self.disk($0, file) }
            case "networks": networks = try value.list().map { try Self.network($0, file) }
            case "rng": rng = try value.flag()
            case "balloon": balloon = try value.flag()
            case "console": console = try value.choice()
            case "serial": serial = try value.choice()
            case "memory-backing": memoryBacking = try value.choice()
            case "dirty-tracker": dirtyTracker = try value.choice()
            case "report": report = try value.text()
            case "log-level": logLevel = try value.choice()
            default: throw value.unknown(of: Self.keys)
            }
        }
    }

    private static let keys = [
        "name", "memory", "cpus", "cpu", "guest", "guest-options", "kernel", "initrd", "append", "disks", "networks",
        "rng", "balloon", "console", "serial", "memory-backing", "dirty-tracker", "report", "log-level",
    ]

    private static func disk(_ node: Node, _ file: String) throws -> DiskOptions {
        var disk = DiskOptions(path: "")
        let map = try YAMLMap(node, in: file, what: "a disk")
        for (key, node) in map.entries {
            let value = YAMLValue(node, key: key, in: file)
            switch key {
            case "path": disk.path = try value.text()
            case "read-only": disk.isReadOnly = try value.flag()
            case "serial": disk.serial = try value.text()
            default: throw value.unknown(of: ["path", "read-only", "serial"])
            }
        }
        if let problem = disk.problem { throw map.error(problem) }
        return disk
    }

    private static func network(_ node: Node, _ file: String) throws -> NetworkOptions {
        var network = NetworkOptions(tap: "")
        let map = try YAMLMap(node, in: file, what: "a network card")
        for (key, node) in map.entries {
            let value = YAMLValue(node, key: key, in: file)
            switch key {
            case "tap": network.tap = try value.text()
            case "mac": network.mac = try value.parsed(NetworkOptions.mac)
            default: throw value.unknown(of: ["tap", "mac"])
            }
        }
        if let problem = network.problem { throw map.error(problem) }
        return network
    }

    // MARK: Writing

    /// The file that says the same, everything that a flag or a default decided included.
    var yaml: String {
        var lines: [String] = []
        func add(_ key: String, _ value: String?) {
            if let value { lines.append("\(key): \(Self.quoted(value))") }
        }
        func add(plain key: String, _ value: (some CustomStringConvertible)?) {
            if let value { lines.append("\(key): \(value)") }
        }
        add("name", name)
        add(plain: "memory", Self.sizeText(memory ?? Self.defaultMemory))
        add(plain: "cpus", cpus ?? 1)
        add("cpu", cpu ?? "host")
        if kernel == nil { add(plain: "guest", (guest ?? .selftest).rawValue) }
        add("guest-options", guestOptions)
        add("kernel", kernel)
        add("initrd", initrd)
        add("append", append)
        if !disks.isEmpty {
            lines.append("disks:")
            for disk in disks {
                lines.append("  - path: \(Self.quoted(disk.path))")
                if disk.isReadOnly { lines.append("    read-only: true") }
                if !disk.serial.isEmpty { lines.append("    serial: \(Self.quoted(disk.serial))") }
            }
        }
        if !networks.isEmpty {
            lines.append("networks:")
            for network in networks {
                lines.append("  - tap: \(Self.quoted(network.tap))")
                if let mac = network.mac { lines.append("    mac: \(Self.quoted(mac.description))") }
            }
        }
        if kernel != nil {
            add(plain: "rng", rng ?? false)
            add(plain: "balloon", balloon ?? false)
            add(plain: "console", (console ?? .serial).rawValue)
        }
        add(plain: "serial", (serial ?? .socket).rawValue)
        add(plain: "memory-backing", (memoryBacking ?? .anonymous).rawValue)
        add(plain: "dirty-tracker", (dirtyTracker ?? .bitmap).rawValue)
        add("report", report)
        add(plain: "log-level", (logLevel ?? .notice).rawValue)
        return lines.joined(separator: "\n") + "\n"
    }

    private static func sizeText(_ size: ByteCount) -> String {
        size.rawValue % (1 << 30) == 0 ? "\(size.rawValue >> 30)G" : "\(size.rawValue >> 20)M"
    }

    /// Text in double quotes, in which YAML takes nothing for anything else.
    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\t": result += "\\t"
            case _ where scalar.value < 0x20 || scalar.value == 0x7F:
                let digits = String(scalar.value, radix: 16)
                result += "\\x" + (digits.count < 2 ? "0" : "") + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
