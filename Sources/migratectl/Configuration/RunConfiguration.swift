/// A VM to be run, as a configuration file and the flags of `run` say it together.

import ArgumentParser
import Control
import KVM
import Logging
import Machine
import Units

/// Everything that may be said of a VM; nil where nothing was said.
struct RunConfiguration: Equatable {
    var name: String?
    var memory: ByteCount?
    var cpus: Int?
    var cpu: String?
    var guest: GuestKind?
    var guestOptions: String?
    var kernel: String?
    var initrd: String?
    var append: String?
    var disks: [DiskOptions] = []
    var networks: [NetworkOptions] = []
    var rng: Bool?
    var balloon: Bool?
    var console: ConsoleKind?
    var serial: SerialMode?
    var memoryBacking: MemoryBacking?
    var dirtyTracker: DirtyTrackerKind?
    var report: String?
    var logLevel: Logger.Level?

    static let defaultMemory = ByteCount(256 << 20)

    /// What `other` says counts, the rest stays. Disks and network cards are one answer each: those of `other` replace
    /// those here.
    func overridden(by other: RunConfiguration) -> RunConfiguration {
        var merged = self
        func take<Value>(_ field: WritableKeyPath<RunConfiguration, Value?>) {
            if let value = other[keyPath: field] { merged[keyPath: field] = value }
        }
        take(\.name)
        take(\.memory)
        take(\.cpus)
        take(\.cpu)
        take(\.guest)
        take(\.guestOptions)
        take(\.kernel)
        take(\.initrd)
        take(\.append)
        if !other.disks.isEmpty { merged.disks = other.disks }
        if !other.networks.isEmpty { merged.networks = other.networks }
        take(\.rng)
        take(\.balloon)
        take(\.console)
        take(\.serial)
        take(\.memoryBacking)
        take(\.dirtyTracker)
        take(\.report)
        take(\.logLevel)
        return merged
    }

    /// Checks what can be wrong without a look at the host.
    func validate() throws {
        guard let name else { throw ValidationError("A VM needs a name: --name, or name: in the configuration file.") }
        do { _ = try VMName(name) } catch { throw ValidationError(error.message) }
        if let cpus, cpus < 1 { throw ValidationError("A VM has at least one vCPU.") }
        if let problem = GuestMemoryLayout.problem(with: memory ?? Self.defaultMemory) {
            throw ValidationError("\(problem).")
        }
        if serial == .stdio, report == "-" {
            throw ValidationError("Both --serial stdio and --report - want standard output: give the report a file.")
        }
        if kernel != nil { try validateForKernel() } else { try validateForTestGuest() }
    }

    private func validateForKernel() throws {
        if guest == .selftest {
            throw ValidationError("--guest selftest is the built-in guest, and --kernel another one: give one of them.")
        }
        if guestOptions != nil {
            throw ValidationError("The options of the built-in guest mean nothing to a kernel: leave them out.")
        }
        let slots = disks.count + networks.count + [rng == true, balloon == true, console == .virtio].count { $0 }
        guard slots <= VirtualDevice.maximumCount else {
            throw ValidationError("A VM has room for \(VirtualDevice.maximumCount) virtio devices, not \(slots).")
        }
        for (index, disk) in disks.enumerated() where disks[..<index].contains(where: { $0.path == disk.path }) {
            throw ValidationError("\(disk.path) is there twice: one disk would be two to the guest.")
        }
    }

    private func validateForTestGuest() throws {
        let needKernel: [(String, Bool)] = [
            ("--initrd", initrd != nil), ("--append", append != nil), ("--disk", !disks.isEmpty),
            ("--net", !networks.isEmpty), ("--rng", rng == true), ("--balloon", balloon == true),
            ("--console virtio", console == .virtio),
        ]
        if let (option, _) = needKernel.first(where: \.1) {
            throw ValidationError(
                "\(option) is for an operating system: the built-in guest has no use for it. Give --kernel.")
        }
    }

    /// The virtio devices, in the order of their slots.
    var devices: [VirtualDevice] {
        var devices = disks.map(\.device) + networks.compactMap(\.device)
        if rng == true { devices.append(.entropy) }
        if balloon == true { devices.append(.balloon) }
        if console == .virtio { devices.append(.console) }
        return devices
    }
}
