/// Where a guest's image comes from. A loader looks at its headers, and has the rest put straight into guest RAM: the
/// process never holds a copy of a kernel or an initrd.

import CKVM
import Glibc
import KVM
import Units

/// An image that can be read in parts.
struct ImageSource {
    private enum Content {
        case bytes([UInt8])
        case file(ImageFile)
    }

    private let content: Content
    /// "the guest image /boot/vmlinuz", for messages.
    let name: String

    /// An image that is part of the program.
    init(_ bytes: [UInt8], name: String) {
        content = .bytes(bytes)
        self.name = name
    }

    /// Opens a file. What it is called in messages begins with `role` ("kernel").
    init(path: String, role: String, maximumByteCount: Int) throws {
        name = "\(role) \(path)"
        content = .file(try ImageFile(path: path, name: name, maximumByteCount: maximumByteCount))
    }

    var byteCount: Int {
        switch content {
        case .bytes(let bytes): bytes.count
        case .file(let file): file.byteCount
        }
    }

    /// A copy of a part; where the image ends sooner, so does the copy.
    func bytes(_ range: Range<Int>) throws -> [UInt8] {
        let range = range.clamped(to: 0..<byteCount)
        switch content {
        case .bytes(let bytes): return Array(bytes[range])
        case .file(let file): return try file.read(range)
        }
    }

    /// Puts a part into guest RAM.
    func load(_ range: Range<Int>, into ram: GuestRAM, at address: GuestAddress) throws {
        switch content {
        case .bytes(let bytes):
            guard range.lowerBound >= 0, range.upperBound <= bytes.count else {
                throw MachineError(.badGuestImage, "\(name) is cut off")
            }
            try ram.write(bytes[range], at: address)
        case .file(let file):
            try unsafe ram.fill(address, byteCount: range.count) { target, offset in
                try unsafe file.read(from: range.lowerBound + offset, into: target)
            }
        }
    }
}

/// An open file of known size.
private final class ImageFile: Sendable {
    let byteCount: Int
    private let descriptor: FileDescriptor
    private let path: String
    private let name: String

    init(path: String, name: String, maximumByteCount: Int) throws {
        // Without O_NONBLOCK, opening a pipe by mistake would wait for a writer for ever.
        let number = unsafe ckvm_open(path, O_RDONLY | O_NONBLOCK)
        guard number >= 0 else { throw KVMError(operation: "open", errno: -number, subject: path) }
        let file = FileDescriptor(adopting: number)
        var status = stat()
        guard unsafe fstat(file.rawValue, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw MachineError(.badGuestImage, "the \(name) is not a file")
        }
        guard status.st_size >= 0, status.st_size <= maximumByteCount else {
            throw MachineError(.badGuestImage, "the \(name) is larger than \(maximumByteCount >> 20) MiB")
        }
        byteCount = Int(status.st_size)
        descriptor = file
        self.path = path
        self.name = name
    }

    /// A copy of a part that lies inside the file.
    func read(_ range: Range<Int>) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: range.count)
        try unsafe bytes.withUnsafeMutableBytes { try unsafe read(from: range.lowerBound, into: $0) }
        return bytes
    }

    /// Fills the buffer; a file that has become shorter meanwhile is an error.
    func read(from offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws {
        guard let base = buffer.baseAddress else { return }
        var filled = 0
        while filled < buffer.count {
            let result = unsafe ckvm_pread(
                descriptor.rawValue, base + filled, buffer.count - filled, offset + filled)
            if result == -Int(EINTR) { continue }
            guard result >= 0 else {
                throw KVMError(operation: "pread", errno: Int32(truncatingIfNeeded: -result), subject: path)
            }
            guard result > 0 else { throw MachineError(.badGuestImage, "the \(name) is cut off") }
            filled += result
        }
    }
}
