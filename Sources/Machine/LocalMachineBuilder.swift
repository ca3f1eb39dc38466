/// Builds the machine that a receiver will run, or says everything that speaks against it.

import CKVM
import Glibc
import KVM
import Logging
import Migrate
import Units
import VMState
import Virtio

/// Makes machines on this host from configurations that came over the wire.
public struct LocalMachineBuilder: MachineBuilder {
    /// The host side of the machines to come.
    public var host: HostOptions
    /// What is ready for the first machine that is made, if it has that size. Made with the same `host`.
    public var reserve: MachineReserve?
    public var logger: Logger

    public init(
        host: HostOptions = HostOptions(), reserve: MachineReserve? = nil, logger: Logger = Logger(label: "machine")
    ) {
        self.host = host
        self.reserve = reserve
        self.logger = logger
    }

    public func makeMachine(for configuration: MachineConfiguration) throws -> any MigratableMachine {
        try makeLocalMachine(for: configuration)
    }

    /// As `makeMachine`, with its own type.
    public func makeLocalMachine(for configuration: MachineConfiguration) throws -> Machine {
        let system = try KVMSystem(path: host.kvmPath)
        let hostCPU = try HostCPU(of: system)
        var reasons: [String] = []
        if let problem = MachineName.problem(with: configuration.name) { reasons.append(problem) }
        if configuration.identifier.count != 16 {
            reasons.append("its identifier has \(configuration.identifier.count) bytes instead of 16")
        }
        reasons += memoryReasons(configuration.memory)
        let most = min(try system.check(.maxVCPUs), Machine.maximumVCPUCount)
        if !(1...max(most, 1)).contains(configuration.vcpuCount) {
            reasons.append("it has \(configuration.vcpuCount) vCPUs, this host can give 1 to \(most)")
        }
        var policy: CPUPolicy?
        do {
            let decoded = try CPUPolicy(decoding: configuration.cpuPolicy)
            let missing = decoded.check(on: hostCPU)
            if !missing.isEmpty {
                reasons.append("this host's CPU lacks " + missing.map(\.description).joined(separator: ", "))
            }
            policy = decoded
        } catch {
            reasons.append(error.description)
        }
        reasons += deviceReasons(configuration.devices)
        let parts = VirtioPart.parts(for: configuration.devices, host: host, reasons: &reasons)
        guard reasons.isEmpty, let policy else {
            let name = MachineName.problem(with: configuration.name) == nil ? configuration.name : "the machine"
            throw MachineError(.cannotRunHere, "\(name) cannot run here: " + reasons.joined(separator: "; "))
        }
        let chassis =
            try takeReserve(for: configuration)
            ?? Chassis(layout: configuration.memory, system: system, host: host)
        return try Machine(
            configuration: configuration, policy: policy, hostCPU: hostCPU, parts: parts, chassis: chassis,
            host: host, logger: logger)
    }

    private func takeReserve(for configuration: MachineConfiguration) -> Chassis? {
        guard let reserve, reserve.heldByteCount > 0 else { return nil }
        let chassis = reserve.take(for: configuration.memory)
        if chassis == nil {
            let total = configuration.memory.reduce(0) { $0 + $1.byteCount }
            logger.notice(
                """
                \(configuration.name) has \(total >> 20) MiB of memory, not the \(reserve.memory.rawValue >> 20) MiB that \
                were preallocated: its pages are found as they come
                """)
        }
        return chassis
    }

    private func memoryReasons(_ memory: [MachineConfiguration.Memory]) -> [String] {
        var total: UInt64 = 0
        for range in memory {
            let (sum, overflow) = total.addingReportingOverflow(range.byteCount)
            guard !overflow else { return ["its memory is larger than any address space"] }
            total = sum
        }
        if let problem = GuestMemoryLayout.problem(with: ByteCount(rawValue: total)) { return [problem] }
        guard memory == GuestMemoryLayout.regions(for: ByteCount(rawValue: total)) else {
            return ["its memory layout is not the one that machines here have"]
        }
        if let reserve, reserve.fits(memory) { return [] }
        guard let available = HostMemory.available(for: host.memoryBacking) else { return [] }
        // A reserve of another size is given back before the machine is made.
        let room = available + (reserve?.heldByteCount ?? 0)
        return total > room ? [HostMemory.shortage(of: total, room: room, backing: host.memoryBacking)] : []
    }

    private func deviceReasons(_ devices: [MachineConfiguration.Device]) -> [String] {
        var reasons: [String] = []
        let known = DeviceSet.known
        var seen: Set<String> = []
        for device in devices {
            guard seen.insert(device.name).inserted else {
                reasons.append("it has the device \(device.name) twice")
                continue
            }
            let newest = known.first { $0.name == device.name }?.version ?? VirtioDevice.stateVersion
            if device.version > newest || device.version == 0 {
                reasons.append(
                    "device \(device.name) has state version \(device.version), here up to \(newest) is known")
            }
        }
        if seen.contains(GenerationID.deviceName), !seen.contains(PowerController.deviceName) {
            reasons.append("its device \(GenerationID.deviceName) needs \(PowerController.deviceName)")
        }
        for device in known where device.isNeeded && !seen.contains(device.name) {
            reasons.append("it lacks the device \(device.name)")
        }
        return reasons
    }
}

/// What this host has left.
enum HostMemory {
    /// Bytes that a new machine can have; nil when the kernel does not tell.
    static func available(for backing: MemoryBacking) -> UInt64? {
        let fields = meminfo()
        switch backing {
        case .anonymous, .memfd:
            guard let available = fields["MemAvailable"] else { return nil }
            return (available + (fields["SwapFree"] ?? 0)) << 10
        case .hugetlb:
            guard let free = fields["HugePages_Free"] else { return nil }
            let reserved = fields["HugePages_Rsvd"] ?? 0
            return (free > reserved ? free - reserved : 0) * UInt64(GuestMemory.hugePageByteCount)
        }
    }

    /// That it is not enough, in words.
    static func shortage(of wanted: UInt64, room: UInt64, backing: MemoryBacking) -> String {
        "it needs \(wanted >> 20) MiB of memory, and this host has \(room >> 20) MiB "
            + (backing == .hugetlb ? "of free 2 MiB pages" : "to give")
    }

    /// The numbers of /proc/meminfo, without their unit.
    private static func meminfo() -> [String: UInt64] {
        let number = unsafe ckvm_open("/proc/meminfo", O_RDONLY)
        guard number >= 0 else { return [:] }
        let file = FileDescriptor(adopting: number)
        var bytes = [UInt8](repeating: 0, count: 16 << 10)
        let count = unsafe ckvm_read(file.rawValue, &bytes, bytes.count)
        guard count > 0 else { return [:] }
        var fields: [String: UInt64] = [:]
        for line in String(decoding: bytes.prefix(count), as: UTF8.self).split(separator: "\n") {
            let parts = line.split(separator: ":")
            guard parts.count == 2, let digits = parts[1].split(separator: " ").first else { continue }
            fields[String(parts[0])] = UInt64(digits)
        }
        return fields
    }
}
