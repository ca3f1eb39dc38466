/// How fast a VM dirties its memory, where, and how much of it: what policies and `migratectl top` and `plan` ask.

import Units

/// Fed with harvests and the times they were taken at. A pure value: it has no clock and does no I/O.
///
/// A log tells which pages were written, not how often; so a rate here is *distinct pages an interval*, over the
/// interval between arming a page and harvesting it. Over long intervals it falls below the rate of short ones, as
/// pages are written again: this is what a round of that length would have to send.
public struct DirtyRateMeter: Sendable {
    /// The time after which a sample counts 1/e of the present.
    public let memory: Duration
    /// The working set is what was written in the last window, and in the one before.
    public let window: Duration

    private var regions: [Region]
    private var lastHarvest: UInt64?
    private var windowStart: UInt64 = 0

    /// A meter for regions of `pageCounts` pages.
    public init(pageCounts: [Int], memory: Duration = .seconds(2), window: Duration = .seconds(5)) {
        precondition(memory > .zero && window > .zero, "a meter needs some time to look back on")
        self.memory = memory
        self.window = window
        self.regions = pageCounts.map { Region(pageCount: $0) }
    }

    // MARK: Feeding

    /// Starts the interval that the next harvest ends: logging was started, or all pages were rearmed, at this time
    /// (CLOCK_MONOTONIC). Also after a harvest whose result was `invalid`: its pages are no measurement.
    public mutating func begin(atNanoseconds now: UInt64) {
        if lastHarvest == nil { windowStart = now }
        lastHarvest = now
        for index in regions.indices { regions[index].armed.removeAll(keepingCapacity: true) }
    }

    /// Says that a stripe's pages were rearmed later than the last harvest, so that its share of the next one is
    /// measured over the right time. Optional: without it, a stripe's interval starts at the last harvest.
    public mutating func markRearmed(region: Int, stripe: Int, atNanoseconds now: UInt64) {
        regions[region].armed[stripe] = now
    }

    /// Adds what a harvest found (and nothing that was in the sets before it).
    public mutating func record(_ sets: [PageSet], atNanoseconds now: UInt64) {
        precondition(sets.count == regions.count, "one set a region")
        guard let start = lastHarvest, now > start else {
            begin(atNanoseconds: now)
            return
        }
        if now - windowStart >= window.nanoseconds {
            // Two windows or more without a harvest: what was before is older than both.
            let stale = now - windowStart >= 2 * window.nanoseconds
            for index in regions.indices { regions[index].turnWindow(forgettingAll: stale) }
            windowStart = now
        }
        for index in regions.indices {
            regions[index].record(sets[index], from: start, to: now, memory: memory.seconds)
        }
        lastHarvest = now
    }

    // MARK: Asking

    /// Distinct pages dirtied per second.
    public var pagesPerSecond: Double { regions.reduce(0) { $0 + $1.pagesPerSecond } }

    /// The same in bytes of whole pages: what sending them costs.
    public var bytesPerSecond: Double { pagesPerSecond * Double(pageByteCount) }

    /// Distinct pages dirtied per second, for each stripe of a region.
    public func stripeRates(region: Int) -> [Double] { regions[region].stripes.map(\.value) }

    /// Distinct pages written within the last one to two windows.
    public var workingSet: Int { regions.reduce(0) { $0 + $1.workingSet.count } }

    /// The same in bytes.
    public var workingSetBytes: ByteCount { ByteCount(UInt64(workingSet) * UInt64(pageByteCount)) }

    /// Which pages those are.
    public func workingSet(region: Int) -> PageSet { regions[region].workingSet }

    /// Stripes by falling rate, those that were never dirtied left out: the hottest come first.
    public func hotStripes(region: Int) -> [Int] {
        let rates = stripeRates(region: region)
        return rates.indices.filter { rates[$0] > 0 }.sorted { (rates[$1], $0) < (rates[$0], $1) }
    }

    /// The pages that will be dirty after `interval`: as many as the rates say, but no more of a stripe than it has
    /// pages that anyone writes.
    public func expectedDirtyPages(after interval: Duration) -> Double {
        regions.reduce(0) { $0 + $1.expectedDirtyPages(after: interval.seconds) }
    }
}

extension DirtyRateMeter {
    private struct Region: Sendable {
        var stripes: [DecayingAverage]
        var pagesPerSecond = 0.0
        /// When a stripe was rearmed, for those that were since the last harvest.
        var armed: [Int: UInt64] = [:]
        var current: PageSet
        var previous: PageSet

        init(pageCount: Int) {
            stripes = Array(repeating: DecayingAverage(), count: (pageCount + pagesPerStripe - 1) / pagesPerStripe)
            current = PageSet(pageCount: pageCount)
            previous = current
        }

        var workingSet: PageSet {
            var union = current
            union.formUnion(previous)
            return union
        }

        mutating func turnWindow(forgettingAll: Bool) {
            swap(&previous, &current)
            current.removeAll()
            if forgettingAll { previous.removeAll() }
        }

        mutating func record(_ set: PageSet, from start: UInt64, to now: UInt64, memory: Double) {
            current.formUnion(set)
            let seconds = Double(now - start) / 1e9
            let share = DecayingAverage.share(of: seconds, memory: memory)
            pagesPerSecond = 0
            for index in stripes.indices {
                let pages = set.count(in: Self.pages(ofStripe: index))
                if let armedAt = armed[index], armedAt > start, armedAt < now {
                    let own = Double(now - armedAt) / 1e9
                    stripes[index].add(Double(pages) / own, share: DecayingAverage.share(of: own, memory: memory))
                } else {
                    stripes[index].add(Double(pages) / seconds, share: share)
                }
                pagesPerSecond += stripes[index].value
            }
            armed.removeAll(keepingCapacity: true)
        }

        func expectedDirtyPages(after seconds: Double) -> Double {
            let written = workingSet
            var total = 0.0
            for index in stripes.indices {
                total += min(stripes[index].value * seconds, Double(written.count(in: Self.pages(ofStripe: index))))
            }
            return total
        }

        static func pages(ofStripe index: Int) -> PageRun {
            PageRun(start: PageIndex(index * pagesPerStripe), count: pagesPerStripe)
        }
    }
}

extension Duration {
    var seconds: Double {
        let (seconds, attoseconds) = components
        return Double(seconds) + Double(attoseconds) / 1e18
    }

    /// Whole nanoseconds of a duration that is not negative; the longest one that fits for longer ones.
    var nanoseconds: UInt64 {
        let nanoseconds = seconds * 1e9
        return nanoseconds < 1e18 ? UInt64(max(nanoseconds, 0)) : 1_000_000_000_000_000_000
    }
}
