/// Bounds-checked reading and writing of small payloads. Pages do not pass here.

/// Appends little-endian fields.
struct PayloadEncoder {
    private(set) var bytes: [UInt8] = []

    mutating func put<T: FixedWidthInteger>(_ value: T) {
        var rest = UInt64(truncatingIfNeeded: value)
        for _ in 0..<T.bitWidth / 8 {
            bytes.append(UInt8(truncatingIfNeeded: rest))
            rest >>= 8
        }
    }

    mutating func put(raw: [UInt8]) { bytes += raw }

    /// A 2-byte length and UTF-8, cut at 65,535 bytes.
    mutating func put(string: String) {
        let utf8 = Array(string.utf8.prefix(Int(UInt16.max)))
        put(UInt16(utf8.count))
        bytes += utf8
    }

    /// 16 bytes: the lower half, then the upper.
    mutating func put(_ session: SessionIdentifier) {
        put(session.low)
        put(session.high)
    }

    /// A 4-byte length and the bytes.
    mutating func put(bytes contents: [UInt8]) {
        put(UInt32(contents.count))
        bytes += contents
    }
}

/// Reads little-endian fields; every read is checked.
struct PayloadDecoder {
    private let bytes: [UInt8]
    private(set) var position = 0
    /// Where the payload starts in its stream.
    private let offset: UInt64
    /// What is being read, for messages.
    private let context: String

    init(_ bytes: [UInt8], offset: UInt64, context: String) {
        self.bytes = bytes
        self.offset = offset
        self.context = context
    }

    var remaining: Int { bytes.count - position }

    func error(_ code: StreamError.Code, _ message: String) -> StreamError {
        StreamError(code, "\(context): \(message)", at: offset + UInt64(position))
    }

    private mutating func integer<T: FixedWidthInteger>(_ type: T.Type) throws(StreamError) -> T {
        let size = T.bitWidth / 8
        guard remaining >= size else {
            throw error(.invalid, "ends in the middle of a field")
        }
        var value: UInt64 = 0
        for i in (0..<size).reversed() {
            value = value << 8 | UInt64(bytes[position + i])
        }
        position += size
        return T(truncatingIfNeeded: value)
    }

    mutating func uint8() throws(StreamError) -> UInt8 { try integer(UInt8.self) }
    mutating func uint16() throws(StreamError) -> UInt16 { try integer(UInt16.self) }
    mutating func uint32() throws(StreamError) -> UInt32 { try integer(UInt32.self) }
    mutating func uint64() throws(StreamError) -> UInt64 { try integer(UInt64.self) }

    mutating func raw(_ count: Int) throws(StreamError) -> [UInt8] {
        guard count >= 0, remaining >= count else { throw error(.invalid, "ends in the middle of a field") }
        defer { position += count }
        return Array(bytes[position..<position + count])
    }

    mutating func session() throws(StreamError) -> SessionIdentifier {
        let low = try uint64()
        return SessionIdentifier(high: try uint64(), low: low)
    }

    mutating func handOverMessage() throws(StreamError) -> HandOverMessage {
        let encoded = try raw(remaining)
        do {
            return try HandOverMessage(decoding: encoded)
        } catch {
            throw self.error(.invalid, error.description)
        }
    }

    mutating func reserved16() throws(StreamError) {
        guard try uint16() == 0 else { throw error(.invalid, "a reserved field is not zero") }
    }

    mutating func reserved32() throws(StreamError) {
        guard try uint32() == 0 else { throw error(.invalid, "a reserved field is not zero") }
    }

    mutating func string(limit: Int) throws(StreamError) -> String {
        let count = Int(try uint16())
        guard count <= limit else { throw error(.tooLarge, "a string of \(count) bytes is longer than \(limit)") }
        let utf8 = try raw(count)
        guard let text = String(validating: utf8, as: UTF8.self) else {
            throw error(.invalid, "a string is not UTF-8")
        }
        return text
    }

    mutating func lengthPrefixed(limit: Int) throws(StreamError) -> [UInt8] {
        let count = Int(try uint32())
        guard count <= limit else { throw error(.tooLarge, "\(count) bytes where at most \(limit) may stand") }
        return try raw(count)
    }

    /// Nothing may follow the last field.
    func finish() throws(StreamError) {
        guard remaining == 0 else { throw error(.invalid, "\(remaining) bytes behind the last field") }
    }
}
