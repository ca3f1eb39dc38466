/// UNIX stream sockets with deadlines.

import Glibc

/// One connected socket. Calls block, but never longer than their deadline.
package final class UnixSocket: Sendable {
    private let descriptor: Descriptor
    var raw: Int32 { descriptor.raw }

    init(_ descriptor: Descriptor) { self.descriptor = descriptor }

    /// Connects to a listening socket.
    ///
    /// - Throws: `vmNotFound` if nothing listens there; `unreachable` if somebody does and does not take the call.
    package static func connect(to path: String, timeout: Duration) throws(ControlError) -> UnixSocket {
        let descriptor = try make()
        let deadline = Deadline(after: timeout)
        while true {
            let result = unsafe try withAddress(path) { address, length in
                unsafe Glibc.connect(descriptor.raw, address, length)
            }
            if result == 0 { return UnixSocket(descriptor) }
            switch errno {
            case EINTR: continue
            case ENOENT, ECONNREFUSED:
                throw ControlError(.vmNotFound, "Nothing listens on \(path).")
            case EAGAIN:
                // The listener's queue is full; UNIX sockets have no event for "there is room now".
                if deadline.hasPassed {
                    throw ControlError(.unreachable, "The process behind \(path) takes no connection: is it stopped?")
                }
                usleep(20_000)
            default:
                throw .system("connect", errno, "Cannot connect to \(path)", as: .unreachable)
            }
        }
    }

    /// A listening socket at `path`, open to its owner only.
    static func listen(at path: String) throws(ControlError) -> Descriptor {
        let descriptor = try make()
        // The directory is private already (RuntimeDirectory.check); the socket's own mode is the second lock.
        guard unsafe try withAddress(path, { address, length in unsafe bind(descriptor.raw, address, length) }) == 0
        else {
            throw .system("bind", errno, "Cannot make the socket \(path)")
        }
        guard unsafe chmod(path, 0o600) == 0 else { throw .system("chmod", errno, "Cannot protect the socket \(path)") }
        guard Glibc.listen(descriptor.raw, 64) == 0 else { throw .system("listen", errno, "Cannot listen on \(path)") }
        return descriptor
    }

    /// The next connection of a listening socket that is ready, or nil when there is none.
    static func accept(from listener: Int32) -> UnixSocket? {
        let raw = Glibc.accept(listener, nil, nil)
        guard raw >= 0 else { return nil }
        let descriptor = Descriptor(raw)
        guard prepare(raw) else { return nil }
        return UnixSocket(descriptor)
    }

    /// Reads what is there, at most `count` bytes. Empty at the end of the connection; nil when the deadline passed.
    package func read(atMost count: Int, until deadline: Deadline?) -> [UInt8]? {
        while true {
            var failure: Int32 = 0
            let bytes = unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
                let result = unsafe recv(raw, buffer.baseAddress, buffer.count, 0)
                filled = max(0, result)
                if result < 0 { failure = errno }
            }
            switch failure {
            case 0: return bytes
            case EINTR: continue
            case EAGAIN: if waitReady(raw, for: Int16(POLLIN), until: deadline) == 0 { return nil }
            default: return []
            }
        }
    }

    /// Writes all of it. False if the peer is gone or did not read in time.
    package func write(_ bytes: [UInt8], until deadline: Deadline) -> Bool {
        var sent = 0
        while sent < bytes.count {
            let result = unsafe bytes.withUnsafeBytes { buffer in
                unsafe send(raw, buffer.baseAddress?.advanced(by: sent), buffer.count - sent, Int32(MSG_NOSIGNAL))
            }
            if result > 0 {
                sent += result
            } else if errno == EAGAIN {
                if waitReady(raw, for: Int16(POLLOUT), until: deadline) == 0 { return false }
            } else if errno != EINTR {
                return false
            }
        }
        return true
    }

    /// Whether the peer has closed its side, without taking anything that it sent.
    var peerHasClosed: Bool {
        var byte: UInt8 = 0
        let result = unsafe recv(raw, &byte, 1, Int32(MSG_PEEK | MSG_DONTWAIT))
        return result == 0 || (result < 0 && errno != EAGAIN && errno != EINTR)
    }

    /// Ends both directions, which wakes a thread that reads or writes here.
    func shutdown() { _ = Glibc.shutdown(raw, Int32(SHUT_RDWR)) }

    private static func make() throws(ControlError) -> Descriptor {
        let raw = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        guard raw >= 0 else { throw .system("socket", errno, "Cannot make a UNIX socket") }
        let descriptor = Descriptor(raw)
        guard prepare(raw) else { throw .system("fcntl", errno, "Cannot set up a UNIX socket") }
        return descriptor
    }

    /// Every socket here is non-blocking (deadlines are kept with `poll`) and closed on `exec`.
    private static func prepare(_ raw: Int32) -> Bool {
        fcntl(raw, F_SETFD, FD_CLOEXEC) == 0 && fcntl(raw, F_SETFL, O_NONBLOCK) == 0
    }

    private static func withAddress(
        _ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) throws(ControlError) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        guard bytes.count <= RuntimeDirectory.maximumSocketPath, !bytes.contains(0) else {
            throw ControlError(
                .badName,
                "The socket path \(VMName.quoted(path)) is longer than \(RuntimeDirectory.maximumSocketPath) bytes.")
        }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: bytes) }
        return unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { rebound in
                unsafe body(rebound, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }
}
