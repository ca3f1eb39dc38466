/// What was wrong with a stream, and where.

/// A stream that cannot be read. `description` is one sentence for people.
public struct StreamError: Error, Equatable, CustomStringConvertible, Sendable {
    /// Can grow: switch with a default.
    public struct Code: Equatable, Sendable {
        enum Value {
            case notAStream, unknownVersion, unknownFeature, damaged, truncated, unexpected, tooLarge, invalid
        }
        let value: Value

        /// The first bytes are not a stream's.
        public static let notAStream = Code(value: .notAStream)
        /// Written by a newer program.
        public static let unknownVersion = Code(value: .unknownVersion)
        /// Needs a feature or a record type that this program does not know.
        public static let unknownFeature = Code(value: .unknownFeature)
        /// A checksum or a fixed field is wrong.
        public static let damaged = Code(value: .damaged)
        /// Ends before its END record.
        public static let truncated = Code(value: .truncated)
        /// A record where it may not stand.
        public static let unexpected = Code(value: .unexpected)
        /// A length beyond the format's limits.
        public static let tooLarge = Code(value: .tooLarge)
        /// A field with a value that makes no sense.
        public static let invalid = Code(value: .invalid)
    }

    public var code: Code
    public var message: String
    /// Offset in the stream of the first byte known to be wrong, in bytes from its start, if known.
    public var offset: UInt64?

    public init(_ code: Code, _ message: String, at offset: UInt64? = nil) {
        self.code = code
        self.message = message
        self.offset = offset
    }

    public var description: String {
        guard let offset else { return message }
        return "\(message), at byte \(offset) of the stream"
    }
}
