/// A blocking client of a UNIX socket, with lines and deadlines: QMP and serial consoles.

import Glibc

public final class LocalSocket {
    private let descriptor: Int32
    private let path: String
    private var received: [UInt8] = []

    /// Connects, waiting until somebody listens there.
    public init(path: String, seconds: Double, whileRunning child: Child) throws {
        self.path = path
        descriptor = try wait(for: "\(child.name) to listen on \(path)", seconds: seconds) {
            if !child.isRunning { throw child.failure("ended early") }
            return try Self.connect(path)
        }
    }

    private static func connect(_ path: String) throws -> Int32? {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else {
            throw HarnessError("the socket's path is too long: \(path)")
        }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw HarnessError("no socket: \(String(cString: strerror(errno)))") }
        let size = socklen_t(MemoryLayout<sockaddr_un>.size)
        let result = withUnsafePointer(to: address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { Glibc.connect(descriptor, $0, size) }
        }
        if result == 0 { return descriptor }
        close(descriptor)
        return nil
    }

    /// Connects to a socket that is there, or throws at once.
    public init(path: String) throws {
        self.path = path
        guard let connected = try Self.connect(path) else { throw HarnessError("nobody listens on \(path)") }
        descriptor = connected
    }

    deinit {
        close(descriptor)
    }

    public func write(_ text: String) throws {
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            if count < 0 {
                if errno == EINTR {
                    try checkInterruption()
                    continue
                }
                throw HarnessError("cannot write to \(path): \(String(cString: strerror(errno)))")
            }
            rest = rest.dropFirst(count)
        }
    }

    private enum Arrival {
        case bytes, closed, nothing
    }

    /// Waits until `end` for something to come.
    private func receive(until end: UInt64) throws -> Arrival {
        while true {
            try checkInterruption()
            let now = monotonicNanoseconds()
            guard now < end else { return .nothing }
            var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            guard poll(&entry, 1, Int32((end - now) / 1_000_000) + 1) > 0 else { continue }
            var buffer = [UInt8](repeating: 0, count: 65536)
            let count = recv(descriptor, &buffer, buffer.count, 0)
            if count < 0 {
                if errno == EINTR { continue }
                throw HarnessError("cannot read from \(path): \(String(cString: strerror(errno)))")
            }
            received.append(contentsOf: buffer[..<count])
            return count > 0 ? .bytes : .closed
        }
    }

    /// Everything until the other side closes.
    public func rest(seconds: Double) throws -> String {
        let end = monotonicNanoseconds() + UInt64(seconds * 1e9)
        while true {
            switch try receive(until: end) {
            case .bytes: continue
            case .closed: return String(decoding: received, as: UTF8.self)
            case .nothing: throw HarnessError("\(path) does not end")
            }
        }
    }

    /// The next line, or nil if none comes in time.
    public func line(seconds: Double) throws -> String? {
        let end = monotonicNanoseconds() + UInt64(seconds * 1e9)
        while true {
            if let index = received.firstIndex(of: UInt8(ascii: "\n")) {
                let text = String(decoding: received[..<index], as: UTF8.self)
                received.removeSubrange(...index)
                return text.hasSuffix("\r") ? String(text.dropLast()) : text
            }
            switch try receive(until: end) {
            case .bytes: continue
            case .closed: throw HarnessError("\(path) was closed")
            case .nothing: return nil
            }
        }
    }
}
