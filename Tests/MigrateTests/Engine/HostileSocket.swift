/// Plain sockets for tests that say what no well-behaved peer says.

import Glibc
import Migrate

/// A connected socket, written and read without a protocol.
final class RawSocket: @unchecked Sendable {
    let descriptor: CInt

    init(descriptor: CInt) { self.descriptor = descriptor }

    deinit { close(descriptor) }

    /// As if the process that has it had died.
    func hangUp() { _ = shutdown(descriptor, CInt(SHUT_RDWR)) }

    /// Connects to a receiver.
    init(_ endpoint: Endpoint) throws {
        switch endpoint {
        case .tcp(_, let port):
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = port.bigEndian
            address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
            descriptor = try Self.connect(AF_INET, address)
        case .unix(let path):
            var address = sockaddr_un()
            address.sun_family = sa_family_t(AF_UNIX)
            withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
            descriptor = try Self.connect(AF_UNIX, address)
        }
    }

    private static func connect<Address>(_ family: CInt, _ address: Address) throws -> CInt {
        let descriptor = socket(family, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        let result = withUnsafePointer(to: address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<Address>.size))
            }
        }
        guard descriptor >= 0, result == 0 else {
            let code = errno
            close(descriptor)
            throw TransportError(.cannotConnect, String(cString: strerror(code)))
        }
        return descriptor
    }

    /// False once the peer is gone.
    @discardableResult
    func send(_ bytes: [UInt8]) -> Bool {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress?.advanced(by: sent), $0.count - sent, CInt(MSG_NOSIGNAL))
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return false }
            sent += count
        }
        return true
    }

    /// What is there, at most `limit` bytes; empty at the end or after `timeout` milliseconds (-1 waits for ever).
    func receive(_ limit: Int = 1 << 16, timeout: CInt = 20_000) -> [UInt8] {
        var poller = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        guard poll(&poller, 1, timeout) > 0 else { return [] }
        var bytes = [UInt8](repeating: 0, count: limit)
        let count = recv(descriptor, &bytes, limit, 0)
        return count > 0 ? Array(bytes.prefix(count)) : []
    }

    /// Everything until the peer closes.
    func receiveAll(timeout: CInt = 20_000) -> [UInt8] {
        var all: [UInt8] = []
        while true {
            let part = receive(timeout: timeout)
            if part.isEmpty { return all }
            all += part
        }
    }

    /// Whether the peer closes within `timeout` milliseconds.
    func isClosed(within timeout: CInt) -> Bool {
        let deadline = MonotonicInstant.now + .milliseconds(Int64(timeout))
        while MonotonicInstant.now < deadline {
            var poller = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            guard poll(&poller, 1, 50) > 0 else { continue }
            var byte: UInt8 = 0
            if recv(descriptor, &byte, 1, 0) <= 0 { return true }
        }
        return false
    }

    func shutDown() { shutdown(descriptor, CInt(SHUT_RDWR)) }

    /// Ends our direction alone: what the peer says is still taken, and not answered with a reset.
    func endWriting() { shutdown(descriptor, CInt(SHUT_WR)) }

    /// Closes with a reset instead of an orderly end.
    func reset() {
        var option = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
        // dup2 closes the socket now and keeps the number ours.
        let null = open("/dev/null", O_RDWR | O_CLOEXEC)
        dup2(null, descriptor)
        close(null)
    }
}

/// A listening socket: TCP on a port that the kernel chooses, or UNIX.
final class RawListener: @unchecked Sendable {
    private let descriptor: CInt
    let endpoint: Endpoint

    init(path: String? = nil) throws {
        if let path {
            unlink(path)
            var address = sockaddr_un()
            address.sun_family = sa_family_t(AF_UNIX)
            withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
            (descriptor, _) = try Self.listening(AF_UNIX, address)
            endpoint = .unix(path: path)
        } else {
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
            (descriptor, address) = try Self.listening(AF_INET, address)
            endpoint = .tcp(host: "127.0.0.1", port: UInt16(bigEndian: address.sin_port))
        }
    }

    private static func listening<Address>(_ family: CInt, _ address: Address) throws -> (CInt, Address) {
        let descriptor = socket(family, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        var address = address
        var length = socklen_t(MemoryLayout<Address>.size)
        let isBound = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, length) == 0 && listen(descriptor, 128) == 0
                    && getsockname(descriptor, $0, &length) == 0
            }
        }
        guard isBound else {
            let code = errno
            close(descriptor)
            throw TransportError(.cannotListen, String(cString: strerror(code)))
        }
        return (descriptor, address)
    }

    deinit { close(descriptor) }

    /// The next connection; nil when nobody came within `timeout` milliseconds.
    func accept(timeout: CInt = 100) -> RawSocket? {
        var poller = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        guard poll(&poller, 1, timeout) > 0 else { return nil }
        let accepted = Glibc.accept(descriptor, nil, nil)
        return accepted < 0 ? nil : RawSocket(descriptor: accepted)
    }
}

/// Cuts a stream into its header and its records, as bytes come.
struct RecordSplitter {
    private var waiting: [UInt8] = []
    private var hasHeader = false

    /// Whole pieces: first the stream's header, then records.
    mutating func feed(_ bytes: [UInt8]) -> [[UInt8]] {
        waiting += bytes
        var pieces: [[UInt8]] = []
        var start = 0
        while true {
            let rest = waiting.count - start
            let length: Int
            if !hasHeader {
                length = 48
            } else {
                guard rest >= 24 else { break }
                length = 24 + waiting.number(at: start + 12, bytes: 4)
            }
            guard rest >= length else { break }
            pieces.append(Array(waiting[start..<start + length]))
            start += length
            hasHeader = true
        }
        waiting.removeFirst(start)
        return pieces
    }
}

extension [UInt8] {
    /// A little-endian integer.
    func number(at offset: Int, bytes count: Int) -> Int {
        (0..<count).reduce(0) { $0 | Int(self[offset + $1]) << (8 * $1) }
    }

    /// Of a record.
    var recordType: Int { number(at: 8, bytes: 2) }
}
