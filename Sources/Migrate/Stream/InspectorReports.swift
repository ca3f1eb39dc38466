/// What an inspector says of a stream: the same values for people and for `--json`. Field names are part of the product.

/// A field of a record, for people.
public struct InspectedField: Codable, Equatable, Sendable {
    public var name: String
    public var value: String

    public init(_ name: String, _ value: String) {
        self.name = name
        self.value = value
    }
}

/// Something wrong with a stream.
public struct StreamProblem: Codable, Equatable, Sendable {
    /// What kind of wrong.
    public enum Kind: String, Codable, Sendable {
        /// Not the bytes that were written.
        case damaged
        /// The input ends too early.
        case truncated
        /// A record was lost, repeated, or comes from elsewhere.
        case order
        /// Intact, but this program does not know it.
        case unknown
        /// Intact, but makes no sense.
        case invalid
        /// Counts that do not agree with what is there.
        case mismatch
    }

    public var kind: Kind
    /// The first byte that is wrong, or, if it cannot be told, the first of `length` bytes among which it is.
    public var offset: UInt64
    /// Bytes among which the first wrong one is: 1 when it is known exactly. Nil when nobody can tell how many.
    public var length: UInt64?
    public var message: String

    public init(_ kind: Kind, at offset: UInt64, length: UInt64? = nil, _ message: String) {
        self.kind = kind
        self.offset = offset
        self.length = length
        self.message = message
    }
}

extension StreamProblem: CustomStringConvertible {
    /// "damaged at byte 4711: ..."
    public var description: String {
        let place =
            switch length {
            case 1: "at byte \(offset)"
            case let length?: "in bytes \(offset) to \(offset + max(length, 1) - 1)"
            case nil: "from byte \(offset) on"
            }
        return "\(kind.rawValue) \(place): \(message)"
    }
}

/// The stream's header.
public struct InspectedHeader: Codable, Equatable, Sendable {
    public var version: UInt16
    /// Mandatory features, in hexadecimal.
    public var features: String
    /// The stream's id, in hexadecimal.
    public var identifier: String
    public var problems: [StreamProblem]
}

extension InspectedHeader: CustomStringConvertible {
    public var description: String {
        "stream \(identifier), version \(version), features \(features)"
            + problems.map { "\n    !! \($0)" }.joined()
    }
}

/// Where the pages of a PAGES record belong.
public struct InspectedPages: Codable, Equatable, Sendable {
    public var region: Int
    /// Within the region.
    public var firstPage: UInt64
    public var count: UInt64
    /// By name, or "unknown N".
    public var encoding: String

    public init(region: Int, firstPage: UInt64, count: UInt64, encoding: String) {
        self.region = region
        self.firstPage = firstPage
        self.count = count
        self.encoding = encoding
    }
}

/// One record.
public struct InspectedRecord: Codable, Equatable, Sendable {
    public var sequence: UInt64
    /// Of the record's header in the stream, in bytes.
    public var offset: UInt64
    /// The name in the format's document, or "type N".
    public var type: String
    public var typeNumber: UInt16
    public var isOptional: Bool
    /// Payload bytes, contents of pages included.
    public var payloadLength: UInt64
    /// What it says.
    public var fields: [InspectedField]
    /// Of a PAGES record.
    public var pages: InspectedPages?
    /// Nothing is wrong with it if this is empty.
    public var problems: [StreamProblem]
}

extension InspectedRecord: CustomStringConvertible {
    /// One line: number, place, type and the fields in short; a line more for each problem.
    public var description: String {
        var line = "#\(sequence) at \(offset)  \(type)  \(payloadLength) bytes" + (isOptional ? " (optional)" : "")
        // Long values have lines of their own in `details`.
        let short = fields.filter { !$0.name.hasPrefix(" ") && $0.value.utf8.count <= 72 }
        if !short.isEmpty { line += "  " + short.map { "\($0.name) \($0.value)" }.joined(separator: ", ") }
        return line + problems.map { "\n    !! \($0)" }.joined()
    }

    /// The record on several lines: the first as in `description`, then every field.
    public var details: String {
        var lines = ["#\(sequence) at \(offset)  \(type)  \(payloadLength) bytes" + (isOptional ? " (optional)" : "")]
        lines += fields.map { "    \($0.name): \($0.value)" }
        lines += problems.map { "    !! \($0)" }
        return lines.joined(separator: "\n")
    }
}

/// Everything counted.
public struct InspectionSummary: Codable, Equatable, Sendable {
    /// Bytes read.
    public var bytes: UInt64 = 0
    public var records: UInt64 = 0
    /// Records of each type, by name.
    public var recordsByType: [String: UInt64] = [:]
    /// Pages in PAGES records, those sent as zero included.
    public var pages: UInt64 = 0
    public var zeroPages: UInt64 = 0
    /// Whether the END record was there: without it a stream is truncated.
    public var hasEnd = false
    /// Problems found.
    public var problems = 0
    /// The one with the lowest offset.
    public var firstProblem: StreamProblem?
    /// Why the rest could not be read, if so.
    public var stopped: String?

    public init() {}

    /// Whole, and nothing wrong with it.
    public var isIntact: Bool { hasEnd && problems == 0 && stopped == nil }

    mutating func note(_ problem: StreamProblem) {
        problems += 1
        if problem.offset < firstProblem?.offset ?? .max { firstProblem = problem }
    }
}

extension InspectionSummary: CustomStringConvertible {
    public var description: String {
        let types = recordsByType.sorted { $0.key < $1.key }.map { "\($0.value) \($0.key)" }.joined(separator: ", ")
        var lines = ["\(records) records in \(bytes) bytes" + (types.isEmpty ? "" : ": \(types)")]
        if pages > 0 { lines.append("\(pages) pages, \(zeroPages) of them as zero") }
        if let stopped { lines.append("stopped: \(stopped)") }
        if let firstProblem {
            lines.append("\(problems) problem\(problems == 1 ? "" : "s"); the first: \(firstProblem)")
        } else {
            lines.append("the stream is whole and undamaged")
        }
        return lines.joined(separator: "\n")
    }
}
