/// Where a receiver listens and a sender connects.

/// A TCP address or a UNIX socket path. Written `host:port`, `[v6]:port`, `:port`, `port` or `unix:PATH`.
public enum Endpoint: Hashable, Sendable {
    case tcp(host: String, port: UInt16)
    case unix(path: String)

    /// The host that stands for one left out: only this machine (nothing listens beyond it unasked).
    public static let defaultHost = "127.0.0.1"

    /// Paths longer than this do not fit a UNIX socket's address (`sun_path` has 108 bytes with its final zero).
    public static let unixPathLimit = 107

    /// Parses what a person wrote.
    /// - Throws: `TransportError` that says what is wrong with it.
    public init(parsing text: String) throws {
        if text.hasPrefix("unix:") {
            let path = String(text.dropFirst("unix:".count))
            guard !path.isEmpty, path.utf8.count <= Self.unixPathLimit, !path.utf8.contains(0) else {
                throw TransportError(
                    .invalidAddress,
                    "'\(text)' is no UNIX socket address: the path must have 1 to \(Self.unixPathLimit) bytes")
            }
            self = .unix(path: path)
            return
        }
        var host: Substring
        let portText: Substring
        if let colon = text.lastIndex(of: ":") {
            host = text[..<colon]
            portText = text[text.index(after: colon)...]
            if host.hasPrefix("["), host.hasSuffix("]") {
                host = host.dropFirst().dropLast()
            } else if host.contains(":") {
                throw TransportError(.invalidAddress, "'\(text)' is ambiguous: write an IPv6 address as [address]:port")
            }
        } else {
            host = ""
            portText = text[...]
        }
        guard let port = UInt16(portText), portText.allSatisfy(\.isNumber) else {
            throw TransportError(
                .invalidAddress, "'\(text)' is no address: write host:port, [IPv6]:port or unix:PATH (port 0 to 65535)")
        }
        guard !host.utf8.contains(0), host.utf8.count <= 255 else {
            throw TransportError(.invalidAddress, "'\(text)' is no address: the host name is not valid")
        }
        self = .tcp(host: host.isEmpty ? Self.defaultHost : String(host), port: port)
    }

    /// Whether only this machine can reach it. A host name counts as reachable from outside unless it is `localhost`.
    public var isLocal: Bool {
        switch self {
        case .unix: true
        case .tcp(let host, _): host == "localhost" || host == "::1" || host.isLoopbackIPv4
        }
    }
}

extension Endpoint: CustomStringConvertible {
    public var description: String {
        switch self {
        case .unix(let path): "unix:\(path)"
        case .tcp(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        }
    }
}

extension String {
    fileprivate var isLoopbackIPv4: Bool {
        let parts = split(separator: ".", omittingEmptySubsequences: false)
        return parts.count == 4 && parts.first == "127" && parts.allSatisfy { UInt8($0) != nil }
    }
}
