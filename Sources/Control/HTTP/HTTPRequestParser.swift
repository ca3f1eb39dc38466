/// Takes requests out of the bytes of a connection. No I/O: bytes in, requests out, so that tests can feed it
/// anything in pieces of any size.

/// One connection's parser. Strict: what it does not understand it refuses, and it never holds more than
/// `maximumHead + maximumBody` bytes whatever the peer sends.
package struct HTTPRequestParser: Sendable {
    /// No request of this API comes near these.
    package static let maximumHead = 8 * 1024
    package static let maximumBody = 64 * 1024

    private var buffer: [UInt8] = []
    /// Bytes before this were searched already for the end of the head.
    private var searched = 0
    private var head: (request: HTTPRequest, bodyLength: Int)?

    package init() {}

    /// Whether part of a request has arrived.
    package var isInsideRequest: Bool { head != nil || !buffer.isEmpty }

    /// Takes bytes that arrived. Call `next` until it returns nil before adding more.
    package mutating func append(_ bytes: [UInt8]) { buffer += bytes }

    /// The next complete request, or nil if more bytes are needed.
    package mutating func next() throws(HTTPRefusal) -> HTTPRequest? {
        if head == nil {
            // RFC 9112 section 2.2: empty lines before a request line are ignored.
            var blank = 0
            while blank < buffer.count, buffer[blank] == cr || buffer[blank] == lf { blank += 1 }
            if blank > 0 {
                buffer.removeFirst(blank)
                searched = 0
            }
            guard let end = endOfHead() else {
                if buffer.count > Self.maximumHead { throw Self.headTooLarge }
                return nil
            }
            guard end <= Self.maximumHead else { throw Self.headTooLarge }
            head = try Self.parseHead(buffer[..<end])
            buffer.removeFirst(end)
            searched = 0
        }
        guard let (request, length) = head, buffer.count >= length else { return nil }
        var complete = request
        complete.body = Array(buffer[..<length])
        buffer.removeFirst(length)
        head = nil
        return complete
    }

    private static let headTooLarge = HTTPRefusal(
        431, .tooLarge, "The request's head is larger than \(maximumHead) bytes.")

    /// The first byte behind the empty line that ends the head.
    private mutating func endOfHead() -> Int? {
        var index = searched
        while index < buffer.count {
            if buffer[index] == lf {
                if index + 1 < buffer.count, buffer[index + 1] == lf { return index + 2 }
                if index + 2 < buffer.count, buffer[index + 1] == cr, buffer[index + 2] == lf { return index + 3 }
            }
            index += 1
        }
        searched = max(0, buffer.count - 2)
        return nil
    }

    private static func parseHead(_ bytes: ArraySlice<UInt8>) throws(HTTPRefusal) -> (HTTPRequest, Int) {
        // Everything in a head that we understand is printable ASCII; what is not may mean something to somebody else.
        for byte in bytes where byte != cr && byte != lf && byte != UInt8(ascii: "\t") && !(0x20...0x7e).contains(byte)
        {
            throw HTTPRefusal(400, .badRequest, "The request is not HTTP: its head has bytes that are not text.")
        }
        let lines = splitLines(bytes)
        let requestLine = lines.first?.split(separator: " ", omittingEmptySubsequences: false) ?? []
        guard requestLine.count == 3, !requestLine[0].isEmpty,
            requestLine[0].allSatisfy({ $0.isASCII && $0.isUppercase })
        else {
            throw HTTPRefusal(
                400, .badRequest, "The request is not HTTP: its first line is not \"METHOD PATH HTTP/1.1\".")
        }
        guard requestLine[2] == "HTTP/1.1" || requestLine[2] == "HTTP/1.0" else {
            throw HTTPRefusal(505, .badRequest, "This server speaks HTTP/1.1 only.")
        }
        let headers = try parseHeaders(lines.dropFirst())
        let (path, query) = try parseTarget(requestLine[1])
        let connection = headers["connection"]?.lowercased()
        let request = HTTPRequest(
            method: String(requestLine[0]), path: path, query: query, headers: headers, body: [],
            keepsAlive: requestLine[2] == "HTTP/1.1" ? connection != "close" : connection == "keep-alive")
        return (request, try bodyLength(headers))
    }

    /// Cut by bytes: to `String`, "\r\n" is one character that is neither of the two.
    private static func splitLines(_ bytes: ArraySlice<UInt8>) -> [Substring] {
        bytes.split(separator: lf, omittingEmptySubsequences: false).map { line in
            Substring(String(decoding: line.last == cr ? line.dropLast() : line, as: UTF8.self))
        }
    }

    private static func parseHeaders(_ lines: ArraySlice<Substring>) throws(HTTPRefusal) -> [String: String] {
        var headers: [String: String] = [:]
        for line in lines where !line.isEmpty {
            guard let colon = line.firstIndex(of: ":"), colon != line.startIndex,
                !line[..<colon].contains(where: { $0 == " " || $0 == "\t" })
            else {
                throw HTTPRefusal(400, .badRequest, "The request is not HTTP: a header line is not \"Name: value\".")
            }
            let name = line[..<colon].lowercased()
            let value = trim(line[line.index(after: colon)...])
            // Two lengths are how requests get smuggled past a proxy; other headers may repeat, the first counts.
            if headers[name] != nil, name == "content-length" || name == "transfer-encoding" || name == "host" {
                throw HTTPRefusal(400, .badRequest, "The request has two \(name) headers.")
            }
            if headers[name] == nil { headers[name] = value }
        }
        return headers
    }

    private static func bodyLength(_ headers: [String: String]) throws(HTTPRefusal) -> Int {
        if headers["transfer-encoding"] != nil {
            throw HTTPRefusal(
                411, .badRequest, "Send the body with a Content-Length: transfer encodings are not understood.")
        }
        guard let text = headers["content-length"] else { return 0 }
        guard !text.isEmpty, text.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) else {
            throw HTTPRefusal(400, .badRequest, "The Content-Length is not a number.")
        }
        // A number that does not fit in an Int is too large as well.
        guard let length = Int(text), length <= maximumBody else {
            throw HTTPRefusal(413, .tooLarge, "The request's body is larger than \(maximumBody) bytes.")
        }
        return length
    }

    private static func parseTarget(_ target: Substring) throws(HTTPRefusal) -> (String, [String: String]) {
        guard target.hasPrefix("/") else {
            throw HTTPRefusal(400, .badRequest, "The request's target does not start with \"/\".")
        }
        let parts = target.split(separator: "?", maxSplits: 1, omittingEmptySubsequences: false)
        var query: [String: String] = [:]
        if parts.count > 1 {
            for item in parts[1].split(separator: "&") {
                let pair = item.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
                query[String(pair[0])] = pair.count > 1 ? String(pair[1]) : ""
            }
        }
        return (String(parts[0]), query)
    }

    private static func trim(_ text: Substring) -> String {
        var text = text
        while let first = text.first, first == " " || first == "\t" { text.removeFirst() }
        while let last = text.last, last == " " || last == "\t" { text.removeLast() }
        return String(text)
    }
}

private let cr = UInt8(ascii: "\r")
private let lf = UInt8(ascii: "\n")
