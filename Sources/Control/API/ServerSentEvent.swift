/// Server-sent events, as the HTML standard (section 9.2) defines them: enough of it to write and to read ours.

/// One event with JSON in it.
public struct ServerSentEvent: Equatable, Sendable {
    public var name: String
    public var data: [UInt8]

    init(name: String, data: [UInt8]) {
        self.name = name
        self.data = data
    }

    init(name: String, _ value: some Encodable) {
        self.name = name
        // One line: our JSON has no line breaks, so the event needs one `data` field.
        data = (try? ControlJSON.encode(value)) ?? Array("{}".utf8)
    }

    var bytes: [UInt8] { Array("event: \(name)\ndata: ".utf8) + data + Array("\n\n".utf8) }
}

/// Takes events out of the bytes of a response. No I/O.
package struct ServerSentEventParser: Sendable {
    /// No event of ours comes near this; a server that sends more is not ours.
    static let maximumEvent = 1024 * 1024

    private var line: [UInt8] = []
    private var name = "message"
    private var data: [UInt8] = []
    private var hasData = false

    package init() {}

    /// The events that are complete with these bytes.
    package mutating func append(_ bytes: [UInt8]) throws(ControlError) -> [ServerSentEvent] {
        var events: [ServerSentEvent] = []
        for byte in bytes {
            if byte != UInt8(ascii: "\n") {
                line.append(byte)
                if line.count + data.count > Self.maximumEvent {
                    throw ControlError(.unreachable, "The server sends an event without end.")
                }
                continue
            }
            if line.last == UInt8(ascii: "\r") { line.removeLast() }
            if line.isEmpty {
                if hasData { events.append(ServerSentEvent(name: name, data: data)) }
                name = "message"
                data = []
                hasData = false
            } else {
                takeField()
            }
            line = []
        }
        return events
    }

    private mutating func takeField() {
        let parts = line.split(separator: UInt8(ascii: ":"), maxSplits: 1, omittingEmptySubsequences: false)
        var value = parts.count > 1 ? Array(parts[1]) : []
        if value.first == UInt8(ascii: " ") { value.removeFirst() }
        switch String(decoding: parts[0], as: UTF8.self) {
        case "event": name = String(decoding: value, as: UTF8.self)
        case "data":
            if hasData { data.append(UInt8(ascii: "\n")) }
            data += value
            hasData = true
        // A line that starts with a colon is a comment; other fields are not ours.
        default: break
        }
    }
}
