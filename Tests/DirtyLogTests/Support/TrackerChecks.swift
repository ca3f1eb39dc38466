import DirtyLog
import Foundation
import KVM
import Synchronization
import Testing
import Units

/// What every tracker must pass, whatever the kernel mechanism below: the order of a migration against a byte
/// comparison of memory, and exact lists of pages.
enum TrackerChecks {
    static func emptySets(_ machine: WriterVM) -> [PageSet] {
        machine.regions.map { PageSet(pageCount: $0.pageCount) }
    }

    /// One round of pre-copy: harvest; then, on two lanes, for each stripe rearm its dirty pages and copy them. Returns
    /// how many pages were copied.
    static func copyRound(_ tracker: any DirtyTracker, _ machine: WriterVM, to copies: [Copy]) throws -> Int {
        var sets = emptySets(machine)
        try #require(try tracker.harvest(into: &sets) == .complete)
        let harvested = sets
        let failure = Mutex<(any Error)?>(nil)
        DispatchQueue.concurrentPerform(iterations: 2) { lane in
            do {
                try copyLane(lane, harvested, tracker, machine, to: copies)
            } catch {
                failure.withLock { $0 = error }
            }
        }
        if let error = failure.withLock({ $0 }) { throw error }
        return harvested.reduce(0) { $0 + $1.count }
    }

    private static func copyLane(
        _ lane: Int, _ sets: [PageSet], _ tracker: any DirtyTracker, _ machine: WriterVM, to copies: [Copy]
    ) throws {
        for (region, set) in sets.enumerated() {
            for first in stride(from: lane * pagesPerStripe, to: set.pageCount, by: 2 * pagesPerStripe) {
                let stripe = PageRun(start: PageIndex(first), count: min(pagesPerStripe, set.pageCount - first))
                guard set.intersects(stripe) else { continue }
                try set.withWords(covering: stripe) {
                    try tracker.rearm(region: region, firstPage: stripe.start, words: $0)
                }
                set.forEachRun(in: stripe) { copies[region].take($0, from: machine.memory[region].base) }
            }
        }
    }

    /// Follows a guest that writes at random on all its vCPUs, as a migration would, and compares all bytes when it
    /// stands. Logging starts and stops while the guest runs; the VMM writes too.
    /// None of the guest's writes may be missing in the copies.
    static func followLive(
        _ tracker: any DirtyTracker, _ machine: WriterVM, _ name: String, passes: Int = 3, pagesPerPass: Int = 40_000
    ) throws {
        var writes = 0
        var copied = 0
        for pass in 0..<passes {
            let copies = machine.memory.map { Copy(byteCount: $0.byteCount) }
            try machine.startWritingRandomly(seed: UInt64(pass + 1))
            let device = DeviceWriter(machine, marking: tracker)
            usleep(2000)
            try tracker.start(allSet: pass % 2 == 0)
            if pass % 2 == 1 {
                // Without `allSet`, what was there before is not the log's business: copy everything once. Pages that
                // the first harvest does not report are protected already.
                for (copy, memory) in zip(copies, machine.memory) {
                    copy.take(PageRun(start: PageIndex(0), count: memory.byteCount / pageByteCount), from: memory.base)
                }
            }
            // Until the guest has dirtied enough, however slow the machine is (within reason).
            var pages = 0
            let end = ContinuousClock.now + .seconds(10)
            while pages < pagesPerPass, ContinuousClock.now < end {
                pages += try copyRound(tracker, machine, to: copies)
                usleep(10_000)
            }
            #expect(pages >= pagesPerPass, "\(name): the guest writes all the time, but little of it is in the log")
            copied += pages
            writes += machine.stop()
            device.stop()
            _ = try copyRound(tracker, machine, to: copies)
            for region in copies.indices {
                let wrong = copies[region].differences(from: machine.memory[region].base)
                #expect(
                    wrong.isEmpty,
                    "\(name), pass \(pass), region \(region): lost \(wrong.count) pages, \(wrong.prefix(5))")
            }
            // Nothing ran since: nothing may be dirty.
            #expect(try copyRound(tracker, machine, to: copies) == 0, "pages are dirty though nothing wrote them")
            try tracker.stop()
        }
        print("\(name): followed \(writes) guest writes by copying \(copied) pages")
    }

    /// Writes lists of pages and expects a harvest to show exactly them, in all regions.
    static func expectExactLists(_ tracker: any DirtyTracker, _ machine: WriterVM, rounds: Int = 12) throws {
        var random = SplitMix64(seed: 4711)
        try tracker.start(allSet: false)
        // KVM maps a page writable, and reports it, even if the guest only reads it for the first time. So all are
        // mapped once before lists can be exact.
        for (region, tracked) in machine.regions.enumerated() {
            try machine.write(region: region, pages: Array(0..<tracked.pageCount))
        }
        var sets = emptySets(machine)
        #expect(try tracker.harvest(into: &sets) == .complete)
        #expect(zip(sets, machine.regions).allSatisfy { $0.count == $1.pageCount })
        try rearmAll(tracker, sets)
        for round in 0..<rounds {
            var expected = emptySets(machine)
            for region in machine.regions.indices {
                let pageCount = machine.regions[region].pageCount
                // From a single page to about a quarter of all, by the round.
                let pages = (0..<(1 + pageCount * round / rounds / 4)).map { _ in Int(random.next() % UInt64(pageCount))
                }
                try machine.write(region: region, pages: pages, value: random.next())
                // Reading is not writing.
                try machine.read(region: region, pages: (0..<50).map { _ in Int(random.next() % UInt64(pageCount)) })
                for page in pages { expected[region].insert(PageIndex(page)) }
            }
            if round % 3 == 2 {
                let run = PageRun(start: PageIndex(5), count: 130)
                memset(machine.memory[0].base + run.start.byteOffset, Int32(round), run.byteCount)
                tracker.markWritten(region: 0, run: run)
                expected[0].insert(run)
            }
            sets = emptySets(machine)
            #expect(try tracker.harvest(into: &sets) == .complete)
            let isExact = sets == expected
            #expect(isExact, "round \(round): \(describe(sets, expected))")
            try rearmAll(tracker, sets)
            sets = emptySets(machine)
            #expect(try tracker.harvest(into: &sets) == .complete)
            #expect(sets.allSatisfy { $0.isEmpty }, "round \(round): dirty again though nothing wrote")
        }
        try tracker.stop()
    }

    static func rearmAll(_ tracker: any DirtyTracker, _ sets: [PageSet]) throws {
        for (region, set) in sets.enumerated() {
            try set.withWords(covering: set.allPages) {
                try tracker.rearm(region: region, firstPage: PageIndex(0), words: $0)
            }
        }
    }

    static func describe(_ sets: [PageSet], _ expected: [PageSet]) -> String {
        zip(sets, expected).map { got, want in
            var (missed, extra) = (want, got)
            missed.subtract(got)
            extra.subtract(want)
            return "missed \(Array(missed.runs.prefix(5))), extra \(Array(extra.runs.prefix(5))) of \(extra.count)"
        }.joined(separator: "; ")
    }
}

/// The destination's memory.
final class Copy: @unchecked Sendable {
    private let base: UnsafeMutableRawPointer
    private let byteCount: Int

    init(byteCount: Int) {
        base = .allocate(byteCount: byteCount, alignment: 4096)
        memset(base, 0xee, byteCount)
        self.byteCount = byteCount
    }

    deinit { base.deallocate() }

    func take(_ run: PageRun, from memory: UnsafeMutableRawPointer) {
        memcpy(base + run.start.byteOffset, memory + run.start.byteOffset, run.byteCount)
    }

    /// Pages that differ.
    func differences(from memory: UnsafeMutableRawPointer) -> [Int] {
        stride(from: 0, to: byteCount, by: pageByteCount).filter { memcmp(base + $0, memory + $0, pageByteCount) != 0 }
            .map { $0 / pageByteCount }
    }
}

/// A device of the VMM: writes pages of region 1 (or 0) from its own thread and marks them.
final class DeviceWriter: @unchecked Sendable {
    private let stopping = Atomic<Bool>(false)
    private let done = DispatchSemaphore(value: 0)

    init(_ machine: WriterVM, marking tracker: (any DirtyTracker)?) {
        let region = machine.regions.count - 1
        let pageCount = machine.regions[region].pageCount
        let memory = machine.memory[region]
        Thread.detachNewThread { [self] in
            var random = SplitMix64(seed: 99)
            while !stopping.load(ordering: .sequentiallyConsistent) {
                let page = PageIndex(Int(random.next() % UInt64(pageCount)))
                // Bytes that the guest's 8-byte writes at multiples of 8 may hit as well: both are tracked.
                (memory.base + page.byteOffset).storeBytes(of: random.next(), as: UInt64.self)
                tracker?.markWritten(region: region, run: PageRun(start: page, count: 1))
                usleep(100)
            }
            done.signal()
        }
    }

    func stop() {
        stopping.store(true, ordering: .sequentiallyConsistent)
        done.wait()
    }
}
