/// The parts of post-copy by themselves: sets of pages on the wire, claims, prefetching, percentiles.

import DirtyLog
import Migrate
import Testing
import Units

@Suite struct PagingPartTests {
    private static func random(_ pageCount: Int, _ generator: inout Xorshift) -> PageSet {
        var set = PageSet(pageCount: pageCount)
        let kind = generator.next() % 4
        if kind == 0 { return set }
        if kind == 1 { return PageSet(pageCount: pageCount, full: true) }
        for _ in 0..<(kind == 2 ? 5 : pageCount / 2 + 1) where pageCount > 0 {
            set.insert(PageIndex(Int(generator.next() >> 8) % pageCount))
        }
        return set
    }

    private static func pieces(_ records: [Record]) -> [PageSetRecord] {
        records.compactMap { if case .pageSet(let piece) = $0 { piece } else { nil } }
    }

    @Test func aSetArrivesWhole() throws {
        var generator = Xorshift(seed: 11)
        for turn in 0..<200 {
            let counts = (0..<1 + turn % 3).map { _ in 1 + Int(generator.next() >> 8) % 5000 }
            let sets = counts.map { Self.random($0, &generator) }
            var assembly = PageSetAssembly(pageCounts: counts)
            for record in PageSetRecord.records(of: sets, attempt: AttemptNumber(7)) {
                #expect(!assembly.isComplete)
                let again = try Record(type: record.type, payload: record.payload, offset: 0)
                guard case .pageSet(let piece) = again else {
                    Issue.record("\(again)")
                    return
                }
                try assembly.take(piece)
            }
            #expect(assembly.isComplete && assembly.attempt == AttemptNumber(7))
            #expect(assembly.sets == sets)
        }
    }

    /// A whole GiB is a few records, and a few pages of it are a few bytes.
    @Test func aSetIsSmall() {
        let full = PageSetRecord.records(of: [PageSet(pageCount: 1 << 18, full: true)], attempt: AttemptNumber(1))
        #expect(full.reduce(0) { $0 + $1.payload.count } <= 33 << 10)
        var few = PageSet(pageCount: 1 << 18)
        for page in stride(from: 0, to: 1 << 18, by: 1 << 14) { few.insert(PageIndex(page)) }
        let sparse = PageSetRecord.records(of: [few], attempt: AttemptNumber(1))
        #expect(sparse.reduce(0) { $0 + $1.payload.count } <= 17 * 24)
    }

    /// What a stranger may send: pages beyond memory, another region, another attempt, a wrong count, more behind the end.
    @Test func aWrongSetIsRefused() throws {
        func piece(_ region: UInt16 = 0, _ attempt: UInt32 = 1, first: UInt64 = 0, _ words: [UInt64] = [1])
            -> PageSetRecord
        {
            PageSetRecord(region: region, attempt: AttemptNumber(attempt), firstPage: first, words: words)
        }
        let wrong: [[PageSetRecord]] = [
            [piece(2)], [piece(first: 128)], [piece(first: 64, [1 << 36])], [piece(0, 1, [1, 1, 1])],
            [piece(first: .max - 63)],
            [piece(), piece(0, 2)], [piece(), piece(first: 2, [])],
            [piece(), piece()], [piece(first: 64), piece()], [piece(1), piece()],
            [piece(), piece(first: 1, []), piece()], [piece(first: 0, []), piece(first: 0, [])],
        ]
        for records in wrong {
            var assembly = PageSetAssembly(pageCounts: [100, 64])
            #expect(throws: StreamError.self) { for record in records { try assembly.take(record) } }
        }
    }

    @Test func claimsAreTakenOnce() {
        let claims = PageClaims(pageCount: 1000)
        claims.fill(PageSet(pageCount: 1000, full: true))
        #expect(claims.count == 1000)
        #expect(claims.take(5) && !claims.take(5) && !claims.contains(5))
        #expect(!claims.take(1000) && !claims.take(-1) && claims.take(word: 99) == 0)
        #expect(claims.take(word: 0) == ~(1 << 5))
        claims.put(word: 0, mask: 0b11)
        #expect(claims.contains(1) && claims.count == 1000 - 64 + 2)
        #expect(claims.insert(70) == false && claims.insert(9) == true)
        var masks: [Int: UInt64] = [:]
        PageClaims.forEachWord(of: PageRun(start: PageIndex(60), count: 70)) { masks[$0] = $1 }
        #expect(masks == [0: 0xF << 60, 1: .max, 2: 3])
        var runs: [PageRun] = []
        PageClaims.forEachRun(word: 1, mask: 1 << 63 | 0b110 | 1 << 40) { runs.append($0) }
        #expect(
            runs == [
                PageRun(start: PageIndex(65), count: 2), PageRun(start: PageIndex(104), count: 1),
                PageRun(start: PageIndex(127), count: 1),
            ])
        PageClaims.forEachRun(word: 0, mask: .max) { #expect($0 == PageRun(start: PageIndex(0), count: 64)) }
    }

    @Test func pagesAroundFaultsComeFirst() {
        var prefetcher = Prefetcher()
        #expect(prefetcher.next() == nil)
        prefetcher.demand(region: 0, page: 640)
        prefetcher.demand(region: 1, page: 64_000)
        // The latest place first, upwards from the fault's own word.
        #expect(prefetcher.next() == .word(region: 1, word: 1000))
        #expect(prefetcher.next() == .word(region: 1, word: 1001))
        // A fault a little further on goes on with the same walk.
        prefetcher.demand(region: 1, page: 64_000 + 64)
        #expect(prefetcher.next() == .word(region: 1, word: 1002))
        var seen = 0
        while let suggestion = prefetcher.next() {
            seen += 1
            if seen > 7 { #expect(suggestion == .word(region: 0, word: 10 + seen - 8)) }
        }
        #expect(seen == 7 + 8)
    }

    @Test func aStrideIsFollowed() {
        var prefetcher = Prefetcher()
        for page in [1000, 1300, 1600] { prefetcher.demand(region: 0, page: page) }
        var pages: [Int] = []
        while let suggestion = prefetcher.next() {
            if case .page(0, let page) = suggestion { pages.append(page) }
        }
        #expect(pages == (1...16).map { 1600 + 300 * $0 })
    }

    @Test func percentilesAreNear() {
        var histogram = LatencyHistogram()
        #expect(histogram.percentile(0.5) == 0)
        for value in 1...100_000 { histogram.record(nanoseconds: UInt64(value)) }
        for (share, value) in [(0.5, 50_000.0), (0.99, 99_000), (0.999, 99_900)] {
            let found = Double(histogram.percentile(share))
            #expect(found >= value && found <= value * 1.07, "\(share): \(found)")
        }
        #expect(histogram.percentile(1) == 100_000 && histogram.longest == 100_000)
        histogram.record(nanoseconds: .max)
        #expect(histogram.percentile(1) == .max)
    }
}
