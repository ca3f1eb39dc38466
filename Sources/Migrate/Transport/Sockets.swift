/// Making connections: connect, listen, accept.

import Glibc
import Synchronization

/// How long a connection may take to be made.
let connectTimeout: Duration = .seconds(5)

extension Connection {
    /// Connects to `endpoint`.
    /// - Throws: `TransportError` with the endpoint's name and why.
    public static func connect(to endpoint: Endpoint) throws -> Connection {
        var lastError: CInt = 0
        for address in try SocketAddress.resolve(endpoint, forListening: false) {
            let descriptor = socket(address.family, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            guard descriptor >= 0 else {
                lastError = errno
                continue
            }
            let connection = Connection(descriptor: descriptor, peer: endpoint.description)
            // Linux bounds connect() by the send timeout.
            connection.setWriteTimeout(connectTimeout)
            let result = unsafe address.withPointer { unsafe Glibc.connect(descriptor, $0, $1) }
            if result == 0, Self.isItsOwnPeer(descriptor) {
                // The kernel chose the very port that nobody listens on: TCP connects to itself then.
                lastError = ECONNREFUSED
                continue
            }
            if result == 0 {
                connection.setWriteTimeout(nil)
                connection.tune(address.family)
                return connection
            }
            lastError = errno == EINPROGRESS ? ETIMEDOUT : errno
        }
        let text = errorText(lastError)
        throw TransportError(.cannotConnect, "cannot connect to \(endpoint): \(text); is a receiver listening there?")
    }

    private static func isItsOwnPeer(_ descriptor: CInt) -> Bool {
        func address(_ get: (CInt, UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> CInt) -> [UInt8]?
        {
            var storage = sockaddr_storage()
            var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
            let result = unsafe withUnsafeMutablePointer(to: &storage) { pointer in
                unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe get(descriptor, $0, &length) }
            }
            guard result == 0, storage.ss_family != sa_family_t(AF_UNIX) else { return nil }
            return unsafe withUnsafeBytes(of: storage) { unsafe Array($0.prefix(Int(length))) }
        }
        guard let own = unsafe address(getsockname) else { return false }
        return unsafe own == address(getpeername)
    }

    /// No delay for small records; a dead peer is noticed in seconds even if the liveness check cannot run.
    fileprivate func tune(_ family: CInt) {
        guard family != AF_UNIX else { return }
        set(CInt(IPPROTO_TCP), TCP_NODELAY, 1)
        set(SOL_SOCKET, SO_KEEPALIVE, 1)
        set(CInt(IPPROTO_TCP), TCP_KEEPIDLE, 2)
        set(CInt(IPPROTO_TCP), TCP_KEEPINTVL, 1)
        set(CInt(IPPROTO_TCP), TCP_KEEPCNT, 4)
        // TCP_USER_TIMEOUT, which Glibc's overlay hides: milliseconds that sent data may stay unacknowledged.
        set(CInt(IPPROTO_TCP), 18, 8000)
    }

    /// Sizes the kernel's buffers of a lane; what waits in them at the pause is downtime. To another host: what is on
    /// its way at 10 Gbit/s and a round trip of 0.8 ms. On one host: little enough that the receiver finds it in the
    /// cache (1 GiB takes a tenth longer with 1 MiB).
    func setLaneBuffers() {
        // An accepted UNIX socket's peer has no address.
        let isLocal = (try? Endpoint(parsing: peer))?.isLocal ?? true
        let bytes: CInt = isLocal ? 64 << 10 : 1 << 20
        set(SOL_SOCKET, SO_SNDBUF, bytes)
        set(SOL_SOCKET, SO_RCVBUF, bytes)
    }

    private func set(_ level: CInt, _ option: CInt, _ value: CInt) {
        var value = value
        unsafe setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<CInt>.size))
    }
}

/// A listening socket.
public final class Listener: Sendable {
    /// -1 once closed.
    private let descriptor: Mutex<CInt>
    /// Where it really listens: a port of 0 is replaced by the one that the kernel chose.
    public let endpoint: Endpoint

    /// Listens on `endpoint`.
    /// - Throws: `TransportError` with the endpoint's name and why.
    public init(_ endpoint: Endpoint) throws {
        var lastError: CInt = EADDRNOTAVAIL
        for address in try SocketAddress.resolve(endpoint, forListening: true) {
            let descriptor = socket(address.family, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            guard descriptor >= 0 else {
                lastError = errno
                continue
            }
            var one: CInt = 1
            unsafe setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &one, socklen_t(MemoryLayout<CInt>.size))
            if unsafe address.withPointer({ unsafe bind(descriptor, $0, $1) }) == 0, listen(descriptor, 128) == 0 {
                self.descriptor = Mutex(descriptor)
                self.endpoint = Self.actual(endpoint, descriptor)
                return
            }
            lastError = errno
            Glibc.close(descriptor)
        }
        let text = errorText(lastError)
        throw TransportError(.cannotListen, "cannot listen on \(endpoint): \(text)")
    }

    deinit { close() }

    /// Stops listening and gives the endpoint back: who connects now is told so by the kernel, and does not wait in a
    /// queue that nobody empties. Not while another thread is in `accept`.
    public func close() {
        let open = descriptor.withLock { descriptor in
            defer { descriptor = -1 }
            return descriptor
        }
        guard open >= 0 else { return }
        Glibc.close(open)
        if case .unix(let path) = endpoint { unsafe unlink(path) }
    }

    /// Waits for a connection; nil when nobody came within `timeout`.
    public func accept(within timeout: Duration) throws -> Connection? {
        let descriptor = descriptor.withLock { $0 }
        guard descriptor >= 0 else { throw TransportError(.shutDown, "\(endpoint) is not listened on any more") }
        var poller = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        let milliseconds = timeout.components.seconds * 1000 + timeout.components.attoseconds / 1_000_000_000_000_000
        let ready = unsafe poll(&poller, 1, CInt(clamping: milliseconds))
        guard ready > 0 else { return nil }
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let accepted = unsafe withUnsafeMutablePointer(to: &storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                unsafe Glibc.accept(descriptor, address, &length)
            }
        }
        guard accepted >= 0 else {
            switch errno {
            // Somebody who went away again: the listener lives on.
            case EINTR, ECONNABORTED, EAGAIN: return nil
            case EMFILE, ENFILE, ENOBUFS, ENOMEM:
                // The connection still waits, so the next call would come back at once.
                usleep(50_000)
                return nil
            default:
                throw TransportError(.failed, "cannot accept on \(endpoint): \(errorText(errno))")
            }
        }
        _ = fcntl(accepted, F_SETFD, FD_CLOEXEC)
        let family = CInt(storage.ss_family)
        let peer = SocketAddress.describe(storage, length) ?? "a peer on \(endpoint)"
        let connection = Connection(descriptor: accepted, peer: peer)
        connection.tune(family)
        return connection
    }

    private static func actual(_ endpoint: Endpoint, _ descriptor: CInt) -> Endpoint {
        guard case .tcp(let host, 0) = endpoint else { return endpoint }
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let result = unsafe withUnsafeMutablePointer(to: &storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                unsafe getsockname(descriptor, address, &length)
            }
        }
        guard result == 0, let port = SocketAddress.port(storage) else { return endpoint }
        return .tcp(host: host, port: port)
    }
}

/// An address in the kernel's form.
private struct SocketAddress {
    let family: CInt
    private let bytes: [UInt8]

    static func resolve(_ endpoint: Endpoint, forListening: Bool) throws -> [SocketAddress] {
        switch endpoint {
        case .unix(let path):
            var address = sockaddr_un()
            address.sun_family = sa_family_t(AF_UNIX)
            unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
            return [unsafe withUnsafeBytes(of: address) { unsafe SocketAddress(family: AF_UNIX, bytes: Array($0)) }]
        case .tcp(let host, let port):
            var hints = unsafe addrinfo()
            unsafe hints.ai_socktype = CInt(SOCK_STREAM.rawValue)
            unsafe hints.ai_flags = AI_NUMERICSERV | (forListening ? AI_PASSIVE : 0)
            var list: UnsafeMutablePointer<addrinfo>?
            let result = unsafe getaddrinfo(host, String(port), &hints, &list)
            guard result == 0 else {
                let text = unsafe String(cString: gai_strerror(result))
                throw TransportError(.invalidAddress, "cannot find an address for '\(host)': \(text)")
            }
            defer { unsafe freeaddrinfo(list) }
            var addresses: [SocketAddress] = []
            var next = unsafe list
            while let info = unsafe next {
                let raw = unsafe UnsafeRawBufferPointer(
                    start: info.pointee.ai_addr, count: Int(info.pointee.ai_addrlen))
                unsafe addresses.append(SocketAddress(family: info.pointee.ai_family, bytes: Array(raw)))
                unsafe next = info.pointee.ai_next
            }
            return addresses
        }
    }

    func withPointer<R>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
        var storage = sockaddr_storage()
        let length = min(bytes.count, MemoryLayout<sockaddr_storage>.size)
        unsafe withUnsafeMutableBytes(of: &storage) { unsafe $0.copyBytes(from: bytes.prefix(length)) }
        return unsafe withUnsafePointer(to: &storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe body($0, socklen_t(length)) }
        }
    }

    static func port(_ storage: sockaddr_storage) -> UInt16? {
        unsafe withUnsafeBytes(of: storage) { raw in
            switch CInt(storage.ss_family) {
            // The port follows the family in both, in network order.
            case AF_INET, AF_INET6: unsafe UInt16(bigEndian: raw.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
            default: nil
            }
        }
    }

    static func describe(_ storage: sockaddr_storage, _ length: socklen_t) -> String? {
        guard let port = port(storage) else { return nil }
        var host = [CChar](repeating: 0, count: Int(NI_MAXHOST))
        var storage = storage
        let result = unsafe withUnsafePointer(to: &storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                unsafe getnameinfo(address, length, &host, socklen_t(host.count), nil, 0, NI_NUMERICHOST)
            }
        }
        guard result == 0 else { return nil }
        let name = String(decoding: host.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
        return Endpoint.tcp(host: name, port: port).description
    }
}
