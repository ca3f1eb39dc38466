/// The records of post-copy: which pages follow, the lanes they come on, and asking for them.

import DirtyLog
import Units

/// A piece of a set of pages: 64 pages a word. Sets are sent as the pieces that are not empty, and end with a record
/// without words whose first page is the number of pages in the whole set.
public struct PageSetRecord: Equatable, Sendable {
    public var region: UInt16
    /// The attempt to hand over that the set belongs to; 0 where none is under way.
    public var attempt: AttemptNumber
    /// A multiple of 64.
    public var firstPage: UInt64
    public var words: [UInt64]

    var isEnd: Bool { words.isEmpty }

    package init(region: UInt16, attempt: AttemptNumber, firstPage: UInt64, words: [UInt64]) {
        self.region = region
        self.attempt = attempt
        self.firstPage = firstPage
        self.words = words
    }

    func encode(into encoder: inout PayloadEncoder) {
        encoder.put(region)
        encoder.put(UInt16(words.count))
        encoder.put(attempt.rawValue)
        encoder.put(firstPage)
        for word in words { encoder.put(word) }
    }

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        region = try decoder.uint16()
        let count = Int(try decoder.uint16())
        attempt = AttemptNumber(try decoder.uint32())
        firstPage = try decoder.uint64()
        guard count <= StreamFormat.pageSetWordLimit, decoder.remaining == count * 8 else {
            throw decoder.error(.invalid, "\(decoder.remaining) bytes of \(count) words")
        }
        words = []
        words.reserveCapacity(count)
        for _ in 0..<count { words.append(try decoder.uint64()) }
        guard words.isEmpty || firstPage % 64 == 0 else {
            throw decoder.error(.invalid, "words that begin at page \(firstPage)")
        }
    }
}

extension PageSetRecord {
    /// A gap of so many empty words ends a piece: a new one costs as much as three.
    private static let gap = 5

    /// The records that carry `sets`, one a region, in their order; the last one is the end.
    package static func records(of sets: [PageSet], attempt: AttemptNumber) -> [Record] {
        var records: [Record] = []
        var total = 0
        for (region, set) in sets.enumerated() {
            var first = 0
            var words: [UInt64] = []
            var empty = 0
            func flush() {
                guard !words.isEmpty else { return }
                words.removeLast(empty)
                records.append(
                    .pageSet(
                        PageSetRecord(
                            region: UInt16(region), attempt: attempt, firstPage: UInt64(first) * 64, words: words)))
                words = []
                empty = 0
            }
            for index in 0..<set.wordCount {
                let word = set.words[index]
                if word == 0, words.isEmpty { continue }
                if words.isEmpty { first = index }
                words.append(word)
                total += word.nonzeroBitCount
                empty = word == 0 ? empty + 1 : 0
                if empty == gap || words.count == StreamFormat.pageSetWordLimit { flush() }
            }
            flush()
        }
        records.append(.pageSet(PageSetRecord(region: 0, attempt: attempt, firstPage: UInt64(total), words: [])))
        return records
    }
}

/// Puts a set together from its pieces, which a stranger may have made up.
package struct PageSetAssembly: Sendable {
    package private(set) var sets: [PageSet]
    package private(set) var attempt: AttemptNumber?
    package private(set) var isComplete = false
    /// Where the next piece may begin: pieces ascend, so that a stranger's set has an end.
    private var next = (region: 0, word: 0)

    package init(pageCounts: [Int]) { sets = pageCounts.map { PageSet(pageCount: $0) } }

    package mutating func take(_ record: PageSetRecord) throws(StreamError) {
        guard !isComplete, attempt == nil || attempt == record.attempt else {
            throw StreamError(.unexpected, "a PAGE-SET record behind the set's end, or of another set")
        }
        attempt = record.attempt
        if record.isEnd {
            let count = sets.reduce(0) { $0 + $1.count }
            guard record.firstPage == UInt64(count) else {
                throw StreamError(.invalid, "a set of \(record.firstPage) pages came with \(count)")
            }
            isComplete = true
            return
        }
        let region = Int(record.region)
        guard region < sets.count, let first = Int(exactly: record.firstPage / 64),
            first <= sets[region].wordCount, record.words.count <= sets[region].wordCount - first
        else { throw StreamError(.invalid, "a PAGE-SET record with pages outside of the VM's memory") }
        guard (region, first) >= next else { throw StreamError(.invalid, "a PAGE-SET record out of order") }
        next = (region, first + record.words.count)
        let last = sets[region].pageCount % 64
        if last != 0, first + record.words.count == sets[region].wordCount, let word = record.words.last,
            word >> UInt64(last) != 0
        {
            throw StreamError(.invalid, "a PAGE-SET record with pages outside of the VM's memory")
        }
        unsafe record.words.withUnsafeBufferPointer { words in
            unsafe sets[region].insertWords(from: PageIndex(first * 64), of: words)
        }
    }
}

/// The opening word of a connection that carries pages after the switch.
public struct PagingLaneGreeting: Equatable, Sendable {
    public var session: SessionIdentifier
    /// 0 answers requests, the others push.
    public var lane: UInt16
    /// Counts the times that the lanes were opened, from 1; lanes of an older one are void.
    public var generation: UInt32
    public var secret: [UInt8]

    package init(session: SessionIdentifier, lane: UInt16, generation: UInt32, secret: [UInt8]) {
        self.session = session
        self.lane = lane
        self.generation = generation
        self.secret = secret
    }

    func encode(into encoder: inout PayloadEncoder) {
        encoder.put(session)
        encoder.put(lane)
        encoder.put(UInt16(0))
        encoder.put(generation)
        encoder.put(raw: secret)
    }

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        session = try decoder.session()
        lane = try decoder.uint16()
        guard Int(lane) <= StreamFormat.laneLimit else { throw decoder.error(.invalid, "lane \(lane)") }
        try decoder.reserved16()
        generation = try decoder.uint32()
        guard generation > 0 else { throw decoder.error(.invalid, "generation 0") }
        secret = try decoder.raw(32)
    }
}

/// Pages that somebody waits for.
public struct PageRequest: Equatable, Sendable {
    public var region: UInt16
    public var count: UInt32
    public var firstPage: UInt64

    package init(region: UInt16, count: UInt32, firstPage: UInt64) {
        self.region = region
        self.count = count
        self.firstPage = firstPage
    }

    static let payloadLength = 16

    func encode(into encoder: inout PayloadEncoder) {
        encoder.put(region)
        encoder.put(UInt16(0))
        encoder.put(count)
        encoder.put(firstPage)
    }

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        region = try decoder.uint16()
        try decoder.reserved16()
        count = try decoder.uint32()
        firstPage = try decoder.uint64()
        guard 1...UInt32(StreamFormat.pageRequestLimit) ~= count, firstPage < 1 << 40 else {
            throw decoder.error(.invalid, "a request for \(count) pages from \(firstPage) on")
        }
    }
}

/// The source has sent every page, with this digest of all of its memory.
public struct ServedRecord: Equatable, Sendable {
    public var attempt: AttemptNumber
    public var pageCount: UInt64
    public var digest: MemoryDigest

    package init(attempt: AttemptNumber, pageCount: UInt64, digest: MemoryDigest) {
        self.attempt = attempt
        self.pageCount = pageCount
        self.digest = digest
    }

    func encode(into encoder: inout PayloadEncoder) {
        encoder.put(attempt.rawValue)
        encoder.put(UInt32(0))
        encoder.put(pageCount)
        encoder.put(digest.rawValue)
    }

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        attempt = AttemptNumber(try decoder.uint32())
        try decoder.reserved32()
        pageCount = try decoder.uint64()
        digest = MemoryDigest(try decoder.uint64())
    }
}

/// How long the guest's faults took at the destination, in nanoseconds: from the fault read to the page installed.
public struct PagingTimes: Equatable, Sendable, Codable {
    public var faults: UInt64 = 0
    public var p50: UInt64 = 0
    public var p99: UInt64 = 0
    public var p999: UInt64 = 0
    public var longest: UInt64 = 0

    package init(faults: UInt64 = 0, p50: UInt64 = 0, p99: UInt64 = 0, p999: UInt64 = 0, longest: UInt64 = 0) {
        self.faults = faults
        self.p50 = p50
        self.p99 = p99
        self.p999 = p999
        self.longest = longest
    }

    func encode(into encoder: inout PayloadEncoder) {
        for value in [faults, p50, p99, p999, longest] { encoder.put(value) }
    }

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        faults = try decoder.uint64()
        p50 = try decoder.uint64()
        p99 = try decoder.uint64()
        p999 = try decoder.uint64()
        longest = try decoder.uint64()
    }
}
