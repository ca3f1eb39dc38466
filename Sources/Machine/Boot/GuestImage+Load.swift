/// From a choice of guest to the loader that boots it.

import KVM
import SelfTest

extension GuestImage {
    /// Kernels are tens of MiB; more is somebody's disk.
    static let maximumByteCount = 512 << 20

    /// Whether the machine is a PC with ACPI and a clock, as kernels expect, or the bare one of the test guest.
    var needsPC: Bool {
        if case .linux = self { true } else { false }
    }

    /// Reads and checks the image's headers.
    /// - Parameters:
    ///   - lowMemory: bytes of RAM below 4 GiB.
    ///   - acpiTables: where the machine's ACPI tables begin, 0 without.
    func makeLoader(vcpuCount: Int, lowMemory: UInt64, acpiTables: UInt64) throws -> any GuestLoader {
        switch self {
        case .selftest(let commandLine):
            // The guest has no other way to learn how many vCPUs there are; who says otherwise means it.
            let says = commandLine.split(separator: " ").contains { $0.hasPrefix("cpus=") }
            let count = min(vcpuCount, SelfTestImage.maximumCPUCount)
            return PVHBoot(
                image: try ELFImage(ImageSource(SelfTestImage.bytes, name: "test guest")),
                commandLine: says ? commandLine : "\(commandLine) cpus=\(count)")
        case .elf(let path, let commandLine):
            let source = try ImageSource(path: path, role: "guest image", maximumByteCount: Self.maximumByteCount)
            return PVHBoot(image: try ELFImage(source), commandLine: commandLine)
        case .linux(let kernel, let initrd, let commandLine):
            let source = try ImageSource(path: kernel, role: "kernel", maximumByteCount: Self.maximumByteCount)
            let disk = try initrd.map { try InitialRAMDisk(path: $0) }
            if try source.bytes(0..<4) == ELFImage.magic {
                return PVHBoot(
                    image: try ELFImage(source), commandLine: commandLine, initrd: disk, acpiTables: acpiTables)
            }
            return try LinuxBoot(
                image: try BZImage(source), initrd: disk, commandLine: commandLine, acpiTables: acpiTables,
                lowMemory: lowMemory)
        }
    }
}
