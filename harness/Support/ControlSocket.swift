/// Requests to a VM's control socket (docs/openapi.yaml): one connection a request, JSON in and out.

public struct ControlSocket: Sendable {
    public let path: String

    public init(path: String) {
        self.path = path
    }

    /// Sends a request and returns the answer's body (null if it is empty); an answer that is no success is an error.
    @discardableResult
    public func request(_ method: String, _ target: String, _ body: JSON? = nil) throws -> JSON {
        let socket = try LocalSocket(path: path)
        let text = body?.text ?? ""
        try socket.write(
            "\(method) \(target) HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
                + "Content-Length: \(text.utf8.count)\r\n\r\n\(text)")
        let answer = try socket.rest(seconds: 20)
        let parts = answer.split(separator: "\r\n\r\n", maxSplits: 1, omittingEmptySubsequences: false)
        let status = parts[0].split(separator: " ").dropFirst().first.flatMap { Int($0) }
        let content = parts.count > 1 ? String(parts[1]) : ""
        guard let status, (200..<300).contains(status) else {
            throw HarnessError("\(method) \(target): \(content.isEmpty ? String(parts[0]) : content)")
        }
        return content.isEmpty ? .null : try JSON.parse(content)
    }
}
