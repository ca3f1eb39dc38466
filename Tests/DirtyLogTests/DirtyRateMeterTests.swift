import DirtyLog
import Testing
import Units

@Suite struct DirtyRateMeterTests {
    private static let second: UInt64 = 1_000_000_000

    /// A set over four stripes with these runs of pages.
    private func set(_ runs: (Int, Int)...) -> PageSet {
        var set = PageSet(pageCount: 4 * pagesPerStripe)
        for (start, count) in runs { set.insert(PageRun(start: PageIndex(start), count: count)) }
        return set
    }

    private func meter(memory: Duration = .seconds(2), window: Duration = .seconds(5)) -> DirtyRateMeter {
        DirtyRateMeter(pageCounts: [4 * pagesPerStripe], memory: memory, window: window)
    }

    @Test func nothingIsMeasuredAtFirst() {
        var meter = meter()
        #expect(meter.pagesPerSecond == 0 && meter.workingSet == 0)
        // A harvest without a beginning is one.
        meter.record([set((0, 100))], atNanoseconds: Self.second)
        #expect(meter.pagesPerSecond == 0)
    }

    /// However long the intervals are, a steady guest has a steady rate; from the first harvest on.
    @Test(arguments: [10, 100, 1000])
    func steadyRate(milliseconds: Int) {
        var meter = meter()
        meter.begin(atNanoseconds: 0)
        for step in 1...50 {
            meter.record([set((700, milliseconds / 10))], atNanoseconds: UInt64(step * milliseconds) * 1_000_000)
            #expect(abs(meter.pagesPerSecond - 100) < 0.001)
        }
        #expect(abs(meter.bytesPerSecond - 409_600) < 4)
        let rates = meter.stripeRates(region: 0)
        #expect(rates[0] == 0 && abs(rates[1] - 100) < 0.001 && rates[2] == 0 && rates[3] == 0)
    }

    /// After one memory length, what was before counts 1/e.
    @Test func oldSamplesFade() {
        var meter = meter(memory: .seconds(2))
        meter.begin(atNanoseconds: 0)
        for step in 1...100 { meter.record([set((0, 50))], atNanoseconds: UInt64(step) * Self.second) }
        for step in 101...102 { meter.record([set()], atNanoseconds: UInt64(step) * Self.second) }
        #expect(abs(meter.pagesPerSecond - 50 * 0.3679) < 0.1)
        for step in 103...160 { meter.record([set()], atNanoseconds: UInt64(step) * Self.second) }
        #expect(meter.pagesPerSecond < 0.001)
    }

    /// A stripe that was rearmed late in the interval showed its pages in the rest of it.
    @Test func lateRearmCountsTheRestOfTheInterval() {
        var meter = meter()
        meter.begin(atNanoseconds: 0)
        meter.markRearmed(region: 0, stripe: 2, atNanoseconds: 3 * Self.second / 4)
        meter.record([set((0, 10), (1024, 10))], atNanoseconds: Self.second)
        let rates = meter.stripeRates(region: 0)
        #expect(abs(rates[0] - 10) < 0.001)
        #expect(abs(rates[2] - 40) < 0.001)
        // It holds for one harvest.
        var next = meter
        next.record([set((1024, 40))], atNanoseconds: 2 * Self.second)
        #expect(abs(next.stripeRates(region: 0)[2] - 40) < 0.001)
    }

    @Test func workingSetIsWhatTheLastWindowsSaw() {
        var meter = meter(window: .seconds(5))
        meter.begin(atNanoseconds: 0)
        meter.record([set((0, 100))], atNanoseconds: 1 * Self.second)
        meter.record([set((50, 100))], atNanoseconds: 2 * Self.second)
        #expect(meter.workingSet == 150)
        #expect(meter.workingSetBytes == ByteCount(150 * 4096))
        // The next window: the one before still counts.
        meter.record([set((1000, 10))], atNanoseconds: 6 * Self.second)
        #expect(meter.workingSet == 160)
        meter.record([set((1000, 10))], atNanoseconds: 11 * Self.second)
        #expect(meter.workingSet == 10)
        #expect(Array(meter.workingSet(region: 0).runs) == [PageRun(start: PageIndex(1000), count: 10)])
        // After a long silence, nothing of before counts.
        meter.record([set((3, 1))], atNanoseconds: 60 * Self.second)
        #expect(meter.workingSet == 1)
    }

    @Test func hottestStripesComeFirst() {
        var meter = meter()
        meter.begin(atNanoseconds: 0)
        meter.record([set((0, 10), (600, 200), (1600, 10))], atNanoseconds: Self.second)
        #expect(meter.hotStripes(region: 0) == [1, 0, 3])
    }

    /// What will be dirty grows with the time, but no more of a stripe than is written there at all.
    @Test func expectationSaturates() {
        var meter = meter()
        meter.begin(atNanoseconds: 0)
        for step in 1...10 { meter.record([set((0, 100), (512, 10))], atNanoseconds: UInt64(step) * Self.second / 10) }
        #expect(abs(meter.expectedDirtyPages(after: .milliseconds(50)) - 55) < 0.01)
        #expect(meter.expectedDirtyPages(after: .seconds(10)) == 110)
        #expect(meter.expectedDirtyPages(after: .zero) == 0)
    }

    /// Times that do not advance are no measurement, and no division by zero.
    @Test func timeThatStandsStill() {
        var meter = meter()
        meter.begin(atNanoseconds: Self.second)
        meter.record([set((0, 100))], atNanoseconds: Self.second)
        meter.record([set((0, 100))], atNanoseconds: Self.second / 2)
        #expect(meter.pagesPerSecond == 0)
        meter.record([set((0, 100))], atNanoseconds: Self.second * 3 / 2)
        #expect(meter.pagesPerSecond == 100)
    }

    /// Logging that begins anew is a new interval; what was learnt stays.
    @Test func beginningAgainKeepsTheAverage() {
        var meter = meter()
        meter.begin(atNanoseconds: 0)
        meter.record([set((0, 100))], atNanoseconds: Self.second)
        meter.begin(atNanoseconds: 100 * Self.second)
        #expect(meter.pagesPerSecond == 100)
        meter.record([set((0, 10))], atNanoseconds: 100 * Self.second + Self.second / 10)
        #expect(abs(meter.pagesPerSecond - 100) < 0.001)
    }
}
