/// Bytes of a file, a pipe or standard input.

import Glibc

/// Reads a descriptor from where it stands. For one thread at a time.
public final class FileSource: ByteSource {
    private let descriptor: CInt
    private let isOwned: Bool
    /// For messages.
    public let name: String

    /// Opens a file, or a named pipe.
    /// - Throws: `TransportError` with the path and why.
    public init(path: String) throws {
        descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY)
        guard descriptor >= 0 else {
            throw TransportError(.failed, "cannot open \(path): \(errorText(errno))")
        }
        isOwned = true
        name = path
    }

    /// Reads a descriptor that belongs to somebody else, such as standard input.
    public init(descriptor: CInt, name: String) {
        self.descriptor = descriptor
        self.name = name
        isOwned = false
    }

    deinit { if isOwned { close(descriptor) } }

    public func read(
        into first: UnsafeMutableRawBufferPointer, then second: UnsafeMutableRawBufferPointer
    ) throws -> Int {
        // SAFETY: the vectors name the caller's buffers, which outlive the call.
        unsafe try withUnsafeTemporaryAllocation(of: iovec.self, capacity: 2) { vectors in
            unsafe vectors[0] = iovec(iov_base: first.baseAddress, iov_len: first.count)
            unsafe vectors[1] = iovec(iov_base: second.baseAddress, iov_len: second.count)
            while true {
                let count = unsafe readv(descriptor, vectors.baseAddress, 2)
                if count >= 0 { return count }
                let code = errno
                if code != EINTR { throw TransportError(.failed, "cannot read \(name): \(errorText(code))") }
            }
        }
    }
}
