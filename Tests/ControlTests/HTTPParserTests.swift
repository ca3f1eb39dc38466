import Control
import Testing

@Suite struct HTTPParserTests {
    private func parse(_ text: String) throws -> HTTPRequest? {
        var parser = HTTPRequestParser()
        parser.append(Array(text.utf8))
        return try parser.next()
    }

    @Test func readsARequest() throws {
        let request = try parse(
            "POST /v1/migration?a=1&b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nX-Odd:\t y \r\n\r\n{}")
        #expect(request?.method == "POST")
        #expect(request?.path == "/v1/migration")
        #expect(request?.query == ["a": "1", "b": ""])
        #expect(request?.headers["x-odd"] == "y")
        #expect(request?.body == Array("{}".utf8))
        #expect(request?.keepsAlive == true)
    }

    @Test func keepsAliveAsTheVersionSays() throws {
        #expect(try parse("GET / HTTP/1.0\r\n\r\n")?.keepsAlive == false)
        #expect(try parse("GET / HTTP/1.0\nConnection: keep-alive\n\n")?.keepsAlive == true)
        #expect(try parse("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n")?.keepsAlive == false)
    }

    @Test func takesBytesInPiecesOfAnySize() throws {
        let bytes = Array("\r\nPUT /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /y HTTP/1.1\r\n\r\n".utf8)
        for size in 1...bytes.count {
            var parser = HTTPRequestParser()
            var requests: [HTTPRequest] = []
            var index = 0
            while index < bytes.count {
                parser.append(Array(bytes[index..<min(index + size, bytes.count)]))
                index += size
                while let request = try parser.next() { requests.append(request) }
            }
            #expect(requests.map(\.path) == ["/x", "/y"])
            #expect(requests.first?.body == Array("abc".utf8))
        }
    }

    @Test(arguments: [
        ("\u{16}\u{03}\u{01}\u{02}\n\n", 400), ("hello\r\n\r\n", 400), ("GET  / HTTP/1.1\r\n\r\n", 400),
        ("get / HTTP/1.1\r\n\r\n", 400), ("GET x HTTP/1.1\r\n\r\n", 400), ("GET / HTTP/2.0\r\n\r\n", 505),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400), ("GET / HTTP/1.1\r\n: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nA : x\r\n\r\n", 400), ("GET / HTTP/1.1\r\nA: x\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400), ("GET / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 413),
        ("GET / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 413),
        ("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
    ])
    func refuses(_ text: String, _ status: Int) {
        let refusal = #expect(throws: HTTPRefusal.self) { try parse(text) }
        #expect(refusal?.status == status)
    }

    @Test func refusesAHeadWithoutEnd() {
        var parser = HTTPRequestParser()
        let refusal = #expect(throws: HTTPRefusal.self) {
            for _ in 0..<1000 {
                parser.append(Array(repeating: UInt8(ascii: "a"), count: 100))
                _ = try parser.next()
            }
        }
        #expect(refusal?.status == 431)
    }

    /// Anything at all: it parses, waits for more or refuses, and never traps.
    @Test func survivesRandomBytes() {
        var random = SystemRandomNumberGenerator()
        let pieces = [
            "GET", " ", "/", "HTTP/1.1", "\r", "\n", "\r\n\r\n", ":", "Content-Length", "5", "\u{0}", "?", "&", "=",
        ]
        for _ in 0..<3000 {
            var parser = HTTPRequestParser()
            for _ in 0..<Int.random(in: 1...30, using: &random) {
                if Bool.random(using: &random) {
                    parser.append(Array((pieces.randomElement(using: &random) ?? "").utf8))
                } else {
                    parser.append([UInt8.random(in: 0...255, using: &random)])
                }
                do { while try parser.next() != nil {} } catch { break }
            }
        }
    }
}

@Suite struct ServerSentEventTests {
    @Test func readsWhatOthersMayWrite() throws {
        var parser = ServerSentEventParser()
        let text = ": comment\nevent: a\ndata: 1\ndata: 2\n\nid: 7\ndata:x\r\n\r\nevent: empty\n\n"
        var events: [ServerSentEvent] = []
        for byte in text.utf8 { events += try parser.append([byte]) }
        #expect(events.map(\.name) == ["a", "message"])
        #expect(events.map { String(decoding: $0.data, as: UTF8.self) } == ["1\n2", "x"])
    }

    @Test func refusesAnEventWithoutEnd() {
        var parser = ServerSentEventParser()
        #expect(throws: ControlError.self) {
            for _ in 0..<20 { _ = try parser.append(Array(repeating: UInt8(ascii: "a"), count: 100_000)) }
        }
    }
}
