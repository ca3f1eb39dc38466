/// A connected stream socket: blocking reads and writes on plain threads, ended from any thread.

import Glibc
import Synchronization

/// Reads bytes from somewhere: a connection, a file, a pipe.
public protocol ByteSource: AnyObject {
    /// Fills `first`, then `second`, as far as bytes are there; blocks until there is at least one.
    /// - Returns: bytes read, 0 at the end.
    func read(
        into first: UnsafeMutableRawBufferPointer, then second: UnsafeMutableRawBufferPointer
    ) throws -> Int
}

/// Owns a connected socket. Reading and writing are each for one thread at a time; `shutDown` is for any.
public final class Connection: ByteSource, Sendable {
    let descriptor: CInt
    /// Who is at the other end, for messages.
    public let peer: String
    private let ending = Mutex<TransportError?>(nil)
    /// CLOCK_MONOTONIC nanoseconds; 0 for none.
    private let readDeadline = Atomic<UInt64>(0)

    /// Takes the descriptor over.
    public init(descriptor: CInt, peer: String) {
        self.descriptor = descriptor
        self.peer = peer
    }

    deinit { close(descriptor) }

    /// Ends both directions at once; threads that read or write now fail with `reason`. The first reason stays.
    public func shutDown(because reason: TransportError) {
        ending.withLock { $0 = $0 ?? reason }
        _ = shutdown(descriptor, CInt(SHUT_RDWR))
    }

    /// Ends our direction, and waits a moment for the peer to end its own: a socket that is closed with bytes unread is
    /// reset, and the peer may lose what was said to it last.
    func finish() {
        setReadTimeout(.seconds(1))
        _ = shutdown(descriptor, CInt(SHUT_WR))
        let deadline = MonotonicInstant.now + .seconds(2)
        unsafe withUnsafeTemporaryAllocation(byteCount: 16 << 10, alignment: 16) { scratch in
            let none = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
            while MonotonicInstant.now < deadline {
                guard let count = try? unsafe read(into: scratch, then: none), count > 0 else { return }
            }
        }
    }

    /// Reads fail with `.timedOut` when nothing came for this long; nil waits for ever.
    public func setReadTimeout(_ timeout: Duration?) {
        setTimeout(SO_RCVTIMEO, timeout)
    }

    /// Reads fail with `.timedOut` from this instant on, however much comes before it; nil lifts this and any timeout.
    func setReadDeadline(_ deadline: MonotonicInstant?) {
        readDeadline.store(deadline.map { max($0.nanoseconds, 1) } ?? 0, ordering: .relaxed)
        if deadline == nil { setReadTimeout(nil) }
    }

    /// Lets the next read wait until the deadline and no longer.
    private func applyReadDeadline() throws {
        let deadline = readDeadline.load(ordering: .relaxed)
        guard deadline != 0 else { return }
        let now = MonotonicInstant.now.nanoseconds
        guard now < deadline else { throw TransportError(.timedOut, "\(peer) did not answer in time") }
        setReadTimeout(.nanoseconds(Int64(clamping: deadline - now)))
    }

    /// Writes fail with `.timedOut` when nothing could be handed to the kernel for this long.
    public func setWriteTimeout(_ timeout: Duration?) {
        setTimeout(SO_SNDTIMEO, timeout)
    }

    /// Bytes that were written and that the peer's kernel does not have yet.
    var unsentByteCount: Int {
        var count: CInt = 0
        return unsafe ioctl(descriptor, UInt(TIOCOUTQ), &count) == 0 ? Int(count) : 0
    }

    private func setTimeout(_ option: CInt, _ timeout: Duration?) {
        let parts = (timeout ?? .zero).components
        let microseconds = max(parts.attoseconds / 1_000_000_000_000, timeout != nil && parts.seconds == 0 ? 1 : 0)
        var value = timeval(tv_sec: Int(parts.seconds), tv_usec: Int(microseconds))
        unsafe setsockopt(descriptor, SOL_SOCKET, option, &value, socklen_t(MemoryLayout<timeval>.size))
    }

    public func read(
        into first: UnsafeMutableRawBufferPointer, then second: UnsafeMutableRawBufferPointer
    ) throws -> Int {
        // SAFETY: the vectors name the callers' buffers, which outlive the call.
        unsafe try withUnsafeTemporaryAllocation(of: iovec.self, capacity: 2) { vectors in
            unsafe vectors[0] = iovec(iov_base: first.baseAddress, iov_len: first.count)
            unsafe vectors[1] = iovec(iov_base: second.baseAddress, iov_len: second.count)
            while true {
                try applyReadDeadline()
                let count = unsafe readv(descriptor, vectors.baseAddress, 2)
                if count >= 0 { return count }
                let code = errno
                if code != EINTR { throw failure(code, doing: "read from") }
            }
        }
    }

    /// Writes all of `vectors`, which are used up meanwhile.
    func write(_ vectors: UnsafeMutableBufferPointer<iovec>) throws {
        var vectors = unsafe vectors[...]
        while unsafe !vectors.isEmpty {
            var message = unsafe msghdr()
            let count: Int =
                unsafe vectors.withContiguousMutableStorageIfAvailable { part in
                    unsafe message.msg_iov = part.baseAddress
                    // IOV_MAX.
                    unsafe message.msg_iovlen = min(part.count, 1024)
                    return unsafe sendmsg(descriptor, &message, CInt(MSG_NOSIGNAL))
                } ?? -1
            if count < 0 {
                let code = errno
                if code == EINTR { continue }
                throw failure(code, doing: "write to")
            }
            var written = count
            while unsafe written > 0 || (vectors.first?.iov_len == 0), let length = unsafe vectors.first?.iov_len {
                if written >= length {
                    written -= length
                    unsafe vectors.removeFirst()
                } else {
                    let index = unsafe vectors.startIndex
                    unsafe vectors[index].iov_base += written
                    unsafe vectors[index].iov_len -= written
                    written = 0
                }
            }
        }
    }

    /// Writes all of `bytes`.
    func write(_ bytes: [UInt8]) throws {
        var bytes = bytes
        try unsafe bytes.withUnsafeMutableBytes { buffer in
            try unsafe withUnsafeTemporaryAllocation(of: iovec.self, capacity: 1) { vectors in
                unsafe vectors[0] = iovec(iov_base: buffer.baseAddress, iov_len: buffer.count)
                try unsafe write(UnsafeMutableBufferPointer(rebasing: vectors[...]))
            }
        }
    }

    private func failure(_ code: CInt, doing what: String) -> TransportError {
        if let reason = ending.withLock({ $0 }) { return reason }
        let text = errorText(code)
        switch code {
        case EAGAIN: return TransportError(.timedOut, "\(peer) did not answer in time")
        case EPIPE, ECONNRESET, ECONNABORTED, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ENETDOWN:
            return TransportError(.closed, "the connection to \(peer) broke (\(text))")
        default: return TransportError(.failed, "cannot \(what) \(peer): \(text)")
        }
    }

    /// Why a read that found the end found it: our own shutting down, or the peer's.
    func endOfInput() -> TransportError {
        ending.withLock { $0 } ?? TransportError(.closed, "\(peer) closed the connection")
    }
}
