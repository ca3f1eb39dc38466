/// The bytes of a hand-over message: a fixed 32 bytes, little-endian (docs/hand-over.md has the table). The record
/// around it brings the checksum.

extension HandOverMessage {
    /// Bytes of every encoded message.
    public static let byteCount = 32

    /// The version of these 32 bytes.
    public static let encodingVersion: UInt8 = 1

    private enum Kind: UInt8 {
        case final = 1
        case ready, refused, void, voided, commit, running, installed, done, lost, alive
    }

    /// Session (low, high), digest, attempt, version, kind, argument, zero.
    public var encoded: [UInt8] {
        let (kind, argument) = kindAndArgument
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.byteCount)
        for word in [session.low, session.high, digest.rawValue] {
            for shift in stride(from: UInt64(0), to: 64, by: 8) {
                bytes.append(UInt8(truncatingIfNeeded: word >> shift))
            }
        }
        for shift in stride(from: UInt32(0), to: 32, by: 8) {
            bytes.append(UInt8(truncatingIfNeeded: attempt.rawValue >> shift))
        }
        bytes += [Self.encodingVersion, kind.rawValue, argument, 0]
        return bytes
    }

    /// Reads what `encoded` wrote; everything else is refused with the reason.
    public init(decoding bytes: some Collection<UInt8>) throws(HandOverMessageError) {
        guard bytes.count == Self.byteCount else { throw .wrongLength(bytes.count) }
        let bytes = Array(bytes)
        func word(_ offset: Int, _ count: Int) -> UInt64 {
            (0..<count).reduce(0) { $0 | UInt64(bytes[offset + $1]) << UInt64(8 * $1) }
        }
        guard bytes[28] == Self.encodingVersion else { throw .unknownVersion(bytes[28]) }
        guard let kind = Kind(rawValue: bytes[29]) else { throw .unknownKind(bytes[29]) }
        guard bytes[31] == 0, let body = Self.body(kind, bytes[30]) else {
            throw .badArgument(kind: bytes[29], argument: bytes[30])
        }
        self.init(
            session: SessionIdentifier(high: word(8, 8), low: word(0, 8)),
            attempt: AttemptNumber(UInt32(truncatingIfNeeded: word(24, 4))),
            digest: MemoryDigest(word(16, 8)), body: body)
    }

    private var kindAndArgument: (Kind, UInt8) {
        switch body {
        case .final(let mode): (.final, mode.rawValue)
        case .ready: (.ready, 0)
        case .refused(let reason): (.refused, reason.rawValue)
        case .void(let reason): (.void, reason.rawValue)
        case .voided: (.voided, 0)
        case .commit: (.commit, 0)
        case .running: (.running, 0)
        case .installed: (.installed, 0)
        case .done: (.done, 0)
        case .lost(let hasRun): (.lost, hasRun ? 2 : 1)
        case .alive: (.alive, 0)
        }
    }

    private static func body(_ kind: Kind, _ argument: UInt8) -> Body? {
        switch kind {
        case .final: HandOverMode(rawValue: argument).map { .final($0) }
        case .refused: RefusalReason(rawValue: argument).map { .refused($0) }
        case .void: VoidReason(rawValue: argument).map { .void($0) }
        case .lost: argument == 1 ? .lost(hasRun: false) : argument == 2 ? .lost(hasRun: true) : nil
        case .ready: argument == 0 ? .ready : nil
        case .voided: argument == 0 ? .voided : nil
        case .commit: argument == 0 ? .commit : nil
        case .running: argument == 0 ? .running : nil
        case .installed: argument == 0 ? .installed : nil
        case .done: argument == 0 ? .done : nil
        case .alive: argument == 0 ? .alive : nil
        }
    }
}

/// Why bytes are not a hand-over message.
public enum HandOverMessageError: Error, Equatable, CustomStringConvertible {
    case wrongLength(Int)
    case unknownVersion(UInt8)
    case unknownKind(UInt8)
    case badArgument(kind: UInt8, argument: UInt8)

    public var description: String {
        switch self {
        case .wrongLength(let count):
            "a hand-over message of \(count) bytes arrived; it must have \(HandOverMessage.byteCount)"
        case .unknownVersion(let version):
            "a hand-over message of version \(version) arrived; this program speaks \(HandOverMessage.encodingVersion)"
        case .unknownKind(let kind):
            "a hand-over message of the unknown kind \(kind) arrived"
        case .badArgument(let kind, let argument):
            "a hand-over message of kind \(kind) arrived with the invalid argument \(argument)"
        }
    }
}
