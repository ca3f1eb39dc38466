/// From a choice of guest to its ELF image.

import CKVM
import Glibc
import KVM
import SelfTest

extension GuestImage {
    /// Kernels are tens of MiB; more is somebody's disk.
    static let maximumByteCount = 512 << 20

    /// Reads and checks the image.
    func makeBoot(vcpuCount: Int) throws -> PVHBoot {
        switch self {
        case .selftest(let commandLine):
            // The guest has no other way to learn how many vCPUs there are; who says otherwise means it.
            let says = commandLine.split(separator: " ").contains { $0.hasPrefix("cpus=") }
            let count = min(vcpuCount, SelfTestImage.maximumCPUCount)
            return PVHBoot(
                image: try ELFImage(SelfTestImage.bytes),
                commandLine: says ? commandLine : "\(commandLine) cpus=\(count)")
        case .elf(let path, let commandLine):
            return PVHBoot(image: try ELFImage(try Self.readFile(path)), commandLine: commandLine)
        }
    }

    private static func readFile(_ path: String) throws -> [UInt8] {
        // Without O_NONBLOCK, opening a pipe by mistake would wait for a writer for ever.
        let number = unsafe ckvm_open(path, O_RDONLY | O_NONBLOCK)
        guard number >= 0 else { throw KVMError(operation: "open", errno: -number, subject: path) }
        let file = FileDescriptor(adopting: number)
        var status = stat()
        guard unsafe fstat(file.rawValue, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw MachineError(.badGuestImage, "the guest image \(path) is not a file")
        }
        guard status.st_size >= 0, status.st_size <= maximumByteCount else {
            throw MachineError(.badGuestImage, "the guest image \(path) is larger than \(maximumByteCount >> 20) MiB")
        }
        var bytes = [UInt8](repeating: 0, count: Int(status.st_size))
        var filled = 0
        while filled < bytes.count {
            let result = unsafe bytes.withUnsafeMutableBytes { buffer in
                guard let base = buffer.baseAddress else { return 0 }
                return unsafe ckvm_pread(file.rawValue, base + filled, buffer.count - filled, filled)
            }
            if result == -Int(EINTR) { continue }
            guard result >= 0 else {
                throw KVMError(operation: "pread", errno: Int32(truncatingIfNeeded: -result), subject: path)
            }
            if result == 0 { break }
            filled += result
        }
        return Array(bytes.prefix(filled))
    }
}
