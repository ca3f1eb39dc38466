/// The small records of the stream as values: each with its encoding and its checked decoding side by side.

import Units

/// A record's payload, decoded. Pages are not among them: they are read where they belong (`PageHead`).
public enum Record: Equatable, Sendable {
    case configuration(MachineConfiguration)
    case state(StateSection)
    case digest(DigestRecord)
    case end(StreamTotals)
    case hello(Hello)
    case welcome(Welcome)
    case refusal(Refusal)
    case lane(LaneGreeting)
    case laneReady(UInt16)
    case epoch(LaneEpoch)
    case epochSeen(LaneEpoch)
    case handover(HandOverMessage)
    case progress(ProgressRecord)
    case rejoin(SessionIdentifier)
    case timings(DestinationTimings)
    case clock(ClockRecord)
    case pageSet(PageSetRecord)
    case pagingLane(PagingLaneGreeting)
    case pageRequest(PageRequest)
    case served(ServedRecord)
    case pagingTimes(PagingTimes)

    public var type: RecordType {
        switch self {
        case .configuration: .configuration
        case .state: .state
        case .digest: .digest
        case .end: .end
        case .hello: .hello
        case .welcome: .welcome
        case .refusal: .refusal
        case .lane: .lane
        case .laneReady: .laneReady
        case .epoch: .epoch
        case .epochSeen: .epochSeen
        case .handover: .handover
        case .progress: .progress
        case .rejoin: .rejoin
        case .timings: .timings
        case .clock: .clock
        case .pageSet: .pageSet
        case .pagingLane: .pagingLane
        case .pageRequest: .pageRequest
        case .served: .served
        case .pagingTimes: .pagingTimes
        }
    }

    /// The payload as the format's document lays it out.
    package var payload: [UInt8] {
        var encoder = PayloadEncoder()
        switch self {
        case .configuration(let value): value.encode(into: &encoder)
        case .state(let value): value.encode(into: &encoder)
        case .digest(let value): value.encode(into: &encoder)
        case .end(let value):
            encoder.put(value.records)
            encoder.put(value.pages)
        case .hello(let value): value.encode(into: &encoder)
        case .welcome(let value): value.encode(into: &encoder)
        case .refusal(let value): value.encode(into: &encoder)
        case .lane(let value): value.encode(into: &encoder)
        case .laneReady(let lane): encoder.put(lane)
        case .epoch(let value), .epochSeen(let value): value.encode(into: &encoder)
        case .handover(let message): encoder.put(raw: message.encoded)
        case .progress(let value): value.encode(into: &encoder)
        case .rejoin(let session): encoder.put(session)
        case .timings(let value): value.encode(into: &encoder)
        case .clock(let value): value.encode(into: &encoder)
        case .pageSet(let value): value.encode(into: &encoder)
        case .pagingLane(let value): value.encode(into: &encoder)
        case .pageRequest(let value): value.encode(into: &encoder)
        case .served(let value): value.encode(into: &encoder)
        case .pagingTimes(let value): value.encode(into: &encoder)
        }
        return encoder.bytes
    }

    /// Decodes the payload of a record that is not PAGES.
    package init(type: RecordType, payload: [UInt8], offset: UInt64) throws(StreamError) {
        var decoder = PayloadDecoder(payload, offset: offset, context: "\(type) record")
        switch type {
        case .configuration: self = .configuration(try MachineConfiguration(from: &decoder))
        case .state: self = .state(try StateSection(from: &decoder))
        case .digest: self = .digest(try DigestRecord(from: &decoder))
        case .end: self = .end(StreamTotals(records: try decoder.uint64(), pages: try decoder.uint64()))
        case .hello: self = .hello(try Hello(from: &decoder))
        case .welcome: self = .welcome(try Welcome(from: &decoder))
        case .refusal: self = .refusal(try Refusal(from: &decoder))
        case .lane: self = .lane(try LaneGreeting(from: &decoder))
        case .laneReady: self = .laneReady(try decoder.uint16())
        case .epoch: self = .epoch(try LaneEpoch(from: &decoder))
        case .epochSeen: self = .epochSeen(try LaneEpoch(from: &decoder))
        case .handover: self = .handover(try decoder.handOverMessage())
        case .progress: self = .progress(try ProgressRecord(from: &decoder))
        case .rejoin: self = .rejoin(try decoder.session())
        case .timings: self = .timings(try DestinationTimings(from: &decoder))
        case .clock: self = .clock(try ClockRecord(from: &decoder))
        case .pageSet: self = .pageSet(try PageSetRecord(from: &decoder))
        case .pagingLane: self = .pagingLane(try PagingLaneGreeting(from: &decoder))
        case .pageRequest: self = .pageRequest(try PageRequest(from: &decoder))
        case .served: self = .served(try ServedRecord(from: &decoder))
        case .pagingTimes: self = .pagingTimes(try PagingTimes(from: &decoder))
        case .pages:
            throw StreamError(.unexpected, "a PAGES record where none may stand", at: offset)
        }
        try decoder.finish()
    }
}

/// What DIGEST says: all guest memory, and which pages it covers.
public struct DigestRecord: Equatable, Sendable {
    public var digest: MemoryDigest
    /// Pages of all regions.
    public var pageCount: UInt64
    /// The marker on each lane that the pages stand before; 0 in a file, where they stand before this record.
    public var epoch: UInt64

    func encode(into encoder: inout PayloadEncoder) {
        encoder.put(digest.rawValue)
        encoder.put(pageCount)
        encoder.put(epoch)
    }

    public init(digest: MemoryDigest, pageCount: UInt64, epoch: UInt64) {
        self.digest = digest
        self.pageCount = pageCount
        self.epoch = epoch
    }

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        digest = MemoryDigest(try decoder.uint64())
        pageCount = try decoder.uint64()
        epoch = try decoder.uint64()
    }
}

/// What END says of the stream before it.
public struct StreamTotals: Equatable, Sendable {
    public var records: UInt64
    public var pages: UInt64

    public init(records: UInt64, pages: UInt64) {
        self.records = records
        self.pages = pages
    }
}

/// Why a destination does not take a VM or a lane.
public struct Refusal: Error, Equatable, Sendable, CustomStringConvertible {
    public enum Code: UInt16, Sendable {
        case busy = 1
        case incompatible = 2
        case noRoom = 3
        case protocolError = 4
        case unknownSession = 5
        case shuttingDown = 6
        case nameTaken = 7
        case internalFailure = 8
    }

    public var code: Code
    /// For people: what does not fit, and what to do.
    public var reason: String

    public init(_ code: Code, _ reason: String) {
        self.code = code
        self.reason = reason
    }

    public var description: String { reason }

    func encode(into encoder: inout PayloadEncoder) {
        encoder.put(code.rawValue)
        encoder.put(UInt16(0))
        encoder.put(bytes: Array(reason.utf8.prefix(StreamFormat.refusalTextLimit)))
    }

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        // A code from a newer program is still a refusal.
        code = Code(rawValue: try decoder.uint16()) ?? .internalFailure
        try decoder.reserved16()
        let text = try decoder.lengthPrefixed(limit: StreamFormat.refusalTextLimit)
        // For a terminal: control characters of a hostile peer must not reach it.
        let printable = String(decoding: text, as: UTF8.self).unicodeScalars.map { scalar in
            scalar == "\n" || (scalar.value >= 0x20 && !(0x7F...0x9F ~= scalar.value)) ? Character(scalar) : "?"
        }
        reason = String(printable)
    }
}

/// A lane's opening word.
public struct LaneGreeting: Equatable, Sendable {
    public var session: SessionIdentifier
    public var lane: UInt16
    public var secret: [UInt8]

    func encode(into encoder: inout PayloadEncoder) {
        encoder.put(session)
        encoder.put(lane)
        encoder.put(UInt16(0))
        encoder.put(raw: secret)
    }

    package init(session: SessionIdentifier, lane: UInt16, secret: [UInt8]) {
        self.session = session
        self.lane = lane
        self.secret = secret
    }

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        session = try decoder.session()
        lane = try decoder.uint16()
        try decoder.reserved16()
        secret = try decoder.raw(32)
    }
}

/// A marker on a lane, with what went before it.
public struct LaneEpoch: Equatable, Sendable {
    /// Rises by one with each marker on the lane; the first is 1.
    public var epoch: UInt64
    /// Pages sent on this lane since it opened.
    public var pages: UInt64
    /// Of these, the pages sent as zero.
    public var zeroPages: UInt64

    func encode(into encoder: inout PayloadEncoder) {
        encoder.put(epoch)
        encoder.put(pages)
        encoder.put(zeroPages)
    }

    package init(epoch: UInt64, pages: UInt64, zeroPages: UInt64) {
        self.epoch = epoch
        self.pages = pages
        self.zeroPages = zeroPages
    }

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        epoch = try decoder.uint64()
        pages = try decoder.uint64()
        zeroPages = try decoder.uint64()
    }
}

/// What a destination shows to people while pages come in.
public struct ProgressRecord: Equatable, Sendable {
    public var round: UInt32
    public var pagesSent: UInt64
    public var pagesTotal: UInt64
    public var bytesPerSecond: UInt64

    func encode(into encoder: inout PayloadEncoder) {
        encoder.put(round)
        encoder.put(UInt32(0))
        encoder.put(pagesSent)
        encoder.put(pagesTotal)
        encoder.put(bytesPerSecond)
    }

    package init(round: UInt32, pagesSent: UInt64, pagesTotal: UInt64, bytesPerSecond: UInt64) {
        self.round = round
        self.pagesSent = pagesSent
        self.pagesTotal = pagesTotal
        self.bytesPerSecond = bytesPerSecond
    }

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        round = try decoder.uint32()
        try decoder.reserved32()
        pagesSent = try decoder.uint64()
        pagesTotal = try decoder.uint64()
        bytesPerSecond = try decoder.uint64()
    }
}

/// The destination's share of the downtime, in nanoseconds.
public struct DestinationTimings: Equatable, Sendable, Codable {
    /// From the source's FINAL heard to the last page in place (0 if it was there before).
    public var lastPage: UInt64
    /// Loading the state.
    public var load: UInt64
    /// From READY said to COMMIT heard.
    public var commitWait: UInt64
    /// From COMMIT heard to the first guest instruction.
    public var run: UInt64
    /// CLOCK_MONOTONIC of the destination's host when its first vCPU entered the guest.
    public var firstEntry: UInt64

    func encode(into encoder: inout PayloadEncoder) {
        encoder.put(lastPage)
        encoder.put(load)
        encoder.put(commitWait)
        encoder.put(run)
        encoder.put(firstEntry)
    }

    package init(lastPage: UInt64, load: UInt64, commitWait: UInt64, run: UInt64, firstEntry: UInt64) {
        self.lastPage = lastPage
        self.load = load
        self.commitWait = commitWait
        self.run = run
        self.firstEntry = firstEntry
    }

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        lastPage = try decoder.uint64()
        load = try decoder.uint64()
        commitWait = try decoder.uint64()
        run = try decoder.uint64()
        firstEntry = try decoder.uint64()
    }
}

extension StateSection {
    func encode(into encoder: inout PayloadEncoder) {
        encoder.put(string: name)
        encoder.put(version)
        encoder.put(bytes: bytes)
    }

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        name = try decoder.string(limit: StreamFormat.nameLimit)
        guard !name.isEmpty else { throw decoder.error(.invalid, "a state section without a name") }
        version = try decoder.uint32()
        bytes = try decoder.lengthPrefixed(limit: StreamFormat.payloadLimit)
    }
}
