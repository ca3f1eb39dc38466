/// Numbers of the stream format, version 1. The document is `docs/stream-format.md`; it and this file change together.

import CPageKernels
import Units

public enum StreamFormat {
    /// The version that this program writes, and the newest that it reads.
    public static let version: UInt16 = 1
    /// `\x89MIGR\r\n\x1a`, read as a little-endian integer.
    static let magic: UInt64 = 0x1A0A_0D52_4749_4D89
    static let streamHeaderLength = 48
    static let recordHeaderLength = 24
    /// The longest payload in bytes, the contents of raw pages included.
    static let payloadLimit = 16 << 20
    /// Raw pages in one PAGES record.
    public static let rawPagesPerRecord = 256
    /// PAGES' payload before the hashes.
    static let pagesHeadLength = 16

    static let laneLimit = 16
    static let regionLimit = 64
    static let vcpuLimit = 1024
    static let deviceLimit = 256
    static let settingsLimit = 2 << 10
    static let nameLimit = 64

    /// The longest payload of a record of this type: a stranger must not make a reader gather more.
    static func payloadLimit(of type: UInt16) -> Int {
        switch RecordType(rawValue: type) {
        case .pages, .state: payloadLimit
        case .configuration: 2 << 20
        case .refusal: 128 << 10
        case .pageSet: 16 + 8 * pageSetWordLimit
        case nil: 1 << 20
        default: 4 << 10
        }
    }
    static let refusalTextLimit = 64 << 10
    /// Words of 64 pages in one PAGE-SET record: 2 GiB of memory.
    static let pageSetWordLimit = 8 << 10
    /// Pages that one PAGE-REQUEST may ask for.
    static let pageRequestLimit = 512
}

/// What a record is. Raw values are the format's.
public enum RecordType: UInt16, Sendable, CaseIterable {
    case configuration = 1
    case pages = 2
    case state = 3
    case digest = 4
    case end = 5
    case hello = 16
    case welcome = 17
    case refusal = 18
    case lane = 19
    case laneReady = 20
    case epoch = 21
    case epochSeen = 22
    case handover = 23
    case pageSet = 24
    case progress = 25
    case rejoin = 26
    case timings = 27
    case clock = 28
    case pagingLane = 29
    case pageRequest = 30
    case served = 31
    case pagingTimes = 40

    /// Whether a reader that does not know the type may skip it.
    var isOptional: Bool {
        switch self {
        case .progress, .timings, .clock, .pagingTimes: true
        default: false
        }
    }
}

extension RecordType: CustomStringConvertible {
    /// The name in the format's document.
    public var description: String {
        switch self {
        case .configuration: "CONFIGURATION"
        case .pages: "PAGES"
        case .state: "STATE"
        case .digest: "DIGEST"
        case .end: "END"
        case .hello: "HELLO"
        case .welcome: "WELCOME"
        case .refusal: "REFUSAL"
        case .lane: "LANE"
        case .laneReady: "LANE-READY"
        case .epoch: "EPOCH"
        case .epochSeen: "EPOCH-SEEN"
        case .handover: "HANDOVER"
        case .progress: "PROGRESS"
        case .rejoin: "REJOIN"
        case .timings: "TIMINGS"
        case .clock: "CLOCK"
        case .pageSet: "PAGE-SET"
        case .pagingLane: "PAGING-LANE"
        case .pageRequest: "PAGE-REQUEST"
        case .served: "SERVED"
        case .pagingTimes: "PAGING-TIMES"
        }
    }
}

/// How the pages of a PAGES record are written.
public enum PageEncoding: UInt8, Sendable {
    case zero = 1
    case raw = 2
}

/// The 48 bytes that open each stream.
public struct StreamHeader: Equatable, Sendable {
    public var version: UInt16 = StreamFormat.version
    /// Mandatory features; none is defined in version 1.
    public var features: UInt64 = 0
    /// 16 random bytes that name the stream.
    public var identifier: [UInt8]

    /// A header for a new stream.
    public init() {
        var generator = SystemRandomNumberGenerator()
        identifier = (0..<16).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
    }

    public init(identifier: [UInt8]) {
        precondition(identifier.count == 16, "a stream id has 16 bytes")
        self.identifier = identifier
    }

    /// What seeds the records' checksums: the first eight bytes of the id.
    var seed: UInt64 {
        identifier.prefix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    public var bytes: [UInt8] {
        var encoder = PayloadEncoder()
        encoder.put(StreamFormat.magic)
        encoder.put(version)
        encoder.put(UInt16(StreamFormat.streamHeaderLength))
        encoder.put(UInt32(0))
        encoder.put(features)
        encoder.put(raw: identifier)
        encoder.put(hashBytes(encoder.bytes))
        return encoder.bytes
    }

    /// Reads a header. `bytes` holds at least 48 bytes.
    /// - Throws: `StreamError` that names the first wrong field.
    public init(parsing bytes: [UInt8]) throws(StreamError) {
        var decoder = PayloadDecoder(bytes, offset: 0, context: "stream header")
        guard try decoder.uint64() == StreamFormat.magic else {
            throw StreamError(.notAStream, "this is not a migratectl stream (its first bytes are not the magic)", at: 0)
        }
        let version = try decoder.uint16()
        let length = try decoder.uint16()
        guard version >= 1, version <= StreamFormat.version else {
            throw StreamError(
                .unknownVersion,
                "the stream has format version \(version); this program reads versions 1 to \(StreamFormat.version)",
                at: 8)
        }
        guard length == StreamFormat.streamHeaderLength else {
            throw StreamError(.damaged, "the stream header claims \(length) bytes instead of 48", at: 10)
        }
        guard try decoder.uint32() == 0 else {
            throw StreamError(.damaged, "a reserved field of the stream header is not zero", at: 12)
        }
        let features = try decoder.uint64()
        let identifier = try decoder.raw(16)
        guard try decoder.uint64() == hashBytes(Array(bytes.prefix(40))) else {
            throw StreamError(.damaged, "the stream header's checksum is wrong", at: 40)
        }
        guard features == 0 else {
            throw StreamError(
                .unknownFeature, "the stream needs features 0x\(String(features, radix: 16)), unknown to this program",
                at: 16)
        }
        self.version = version
        self.features = features
        self.identifier = identifier
    }
}

/// The 24 bytes before each payload. The checksum comes first, so that all it covers lies in one piece behind it.
struct RecordHeader {
    var checksum: UInt64
    var type: UInt16
    var flags: UInt16
    /// Payload bytes.
    var length: Int
    var sequence: UInt64

    static let optionalFlag: UInt16 = 1
    /// Where the part that the checksum covers begins.
    static let coveredOffset = 8
}

/// XXH3-64 of an array.
func hashBytes(_ bytes: [UInt8], seed: UInt64 = 0) -> UInt64 {
    unsafe bytes.withUnsafeBytes { unsafe hashBytes($0, seed: seed) }
}

/// XXH3-64 of bytes that nobody changes meanwhile.
func hashBytes(_ bytes: UnsafeRawBufferPointer, seed: UInt64) -> UInt64 {
    var nothing: UInt8 = 0
    guard let base = bytes.baseAddress else { return unsafe mk_hash(&nothing, 0, seed) }
    return unsafe mk_hash(base, bytes.count, seed)
}
