/// HTTP/1.1 messages, as much of them as a control API on a local socket needs.

/// A request, complete with its body.
package struct HTTPRequest: Equatable, Sendable {
    package var method: String
    /// Without the query.
    package var path: String
    package var query: [String: String]
    /// Names in lower case.
    package var headers: [String: String]
    package var body: [UInt8]
    /// Whether the client wants to ask more on this connection.
    package var keepsAlive: Bool
}

/// A response: a body at once, or events as they come.
struct HTTPResponse: Sendable {
    enum Body: Sendable {
        case bytes([UInt8])
        /// Calls `send` for each piece until it returns false (the client is gone) or the work is done.
        case stream(@Sendable (_ send: ([UInt8]) -> Bool) -> Void)
    }

    var status: Int
    var contentType: String?
    var headers: [(name: String, value: String)] = []
    var body: Body

    init(status: Int, contentType: String? = nil, body: Body = .bytes([])) {
        self.status = status
        self.contentType = contentType
        self.body = body
    }

    /// The status line and the header. A stream ends with its connection, so it has no length.
    func head(keepsAlive: Bool) -> [UInt8] {
        var text = "HTTP/1.1 \(status) \(Self.phrase(for: status))\r\n"
        if let contentType { text += "Content-Type: \(contentType)\r\n" }
        for header in headers { text += "\(header.name): \(header.value)\r\n" }
        switch body {
        case .bytes(let bytes):
            // RFC 9110 section 8.6: no length on 204.
            if status != 204 { text += "Content-Length: \(bytes.count)\r\n" }
            text += "Connection: \(keepsAlive ? "keep-alive" : "close")\r\n"
        case .stream:
            text += "Cache-Control: no-store\r\nConnection: close\r\n"
        }
        return Array((text + "\r\n").utf8)
    }

    static func phrase(for status: Int) -> String {
        switch status {
        case 200: "OK"
        case 202: "Accepted"
        case 204: "No Content"
        case 400: "Bad Request"
        case 404: "Not Found"
        case 405: "Method Not Allowed"
        case 408: "Request Timeout"
        case 409: "Conflict"
        case 411: "Length Required"
        case 413: "Content Too Large"
        case 431: "Request Header Fields Too Large"
        case 501: "Not Implemented"
        case 503: "Service Unavailable"
        case 505: "HTTP Version Not Supported"
        default: status < 500 ? "Error" : "Internal Server Error"
        }
    }
}

/// Why a request is refused before any route sees it. The connection is closed after it: where one message ends
/// and the next begins is not certain any more.
package struct HTTPRefusal: Error, Equatable {
    package var status: Int
    package var error: ControlError

    init(_ status: Int, _ code: ControlError.Code, _ message: String) {
        self.status = status
        error = ControlError(code, message)
    }
}
