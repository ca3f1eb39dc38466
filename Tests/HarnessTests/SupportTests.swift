/// The harness judges the product, so its own arithmetic and parsing are tested too.

import HarnessSupport
import Testing

@Suite struct SampleTests {
    @Test func medianOfOddAndEvenCounts() throws {
        #expect(try #require(Sample([5, 1, 3])).median == 3)
        #expect(try #require(Sample([4, 1, 3, 2])).median == 2.5)
        #expect(Sample([]) == nil)
    }

    @Test func percentilesAreRanks() throws {
        let sample = try #require(Sample((1...100).map(Double.init)))
        #expect(sample.percentile(0.99) == 99)
        #expect(sample.percentile(1) == 100)
        #expect(sample.percentile(0) == 1)
        #expect(sample.largest == 100)
    }

    @Test func ratioIntervalHoldsTheRatio() throws {
        let small = try #require(Sample((0..<30).map { 10 + Double($0 % 5) }))
        let large = try #require(Sample((0..<30).map { 20 + Double($0 % 7) }))
        let interval = small.ratioInterval(to: large)
        #expect(interval.contains(small.median / large.median))
        #expect(interval.upperBound < 0.75)
        #expect(interval == small.ratioInterval(to: large), "the draws must not change")
    }
}

@Suite struct GuestLineTests {
    private let lines = [
        "selftest: event=cpu cpu=0 sequence=100 errors=0",
        "selftest: event=gap cpu=0 ns=1000 from=5000 to=8000",
        "selftest: event=gap cpu=0 ns=9000 from=10000 to=37000",
        "selftest: event=cpu cpu=1 sequence=90 errors=2",
        "selftest: event=report elapsed_ms=5 cpus=2 errors=2 stalls=0 verdict=fail",
    ]

    @Test func reportIsGathered() throws {
        let report = try GuestReport(lines.compactMap { GuestLine($0) })
        #expect(report.sequences == [100, 90])
        #expect(report.largestGap?.ticks == 27000)
        #expect(!report.passed)
        #expect(report.faults == ["errors=2"])
    }

    @Test func otherTextIsNotTheGuests() {
        #expect(GuestLine("Linux version 6.1") == nil)
        #expect(GuestLine("selftest: boots") == nil)
        #expect(GuestLine("") == nil)
    }

    @Test func reportWithoutItsEndIsRefused() {
        #expect(throws: HarnessError.self) { try GuestReport(lines.dropLast().compactMap { GuestLine($0) }) }
    }

    @Test func missingNumbersAreNamed() throws {
        let line = try #require(GuestLine("selftest: event=verify pages=7 bad=x"))
        #expect(try line.number("pages") == 7)
        #expect(throws: HarnessError.self) { try line.number("bad") }
    }
}

@Suite struct MigrationFiguresTests {
    @Test func lastLineCounts() throws {
        let figures = try MigrationFigures(
            """
            {"state":"active"}
            {"state":"completed","report":{"totalSeconds":0.8125,"downtimeMilliseconds":3.25,"digest":"0123","bytesSent":1024,\
            "rounds":[{},{}],"phases":{"residue":1.5,"lastLog":0.25,"pause":0.5},"destinationLastPageMilliseconds":0.5}}
            """)
        #expect(figures.totalMilliseconds == 812.5)
        #expect(figures.downtimeMilliseconds == 3.25)
        #expect(figures.phases["residue"] == 1.5)
        #expect(figures.fixedMilliseconds == 1)
        #expect(figures.rounds == 2)
        #expect(figures.digest == "0123")
    }

    @Test func silenceAndNonsenseAreRefused() {
        #expect(throws: HarnessError.self) { try MigrationFigures("") }
        #expect(throws: HarnessError.self) { try MigrationFigures("migrated!") }
        #expect(throws: HarnessError.self) { try MigrationFigures("{}") }
    }
}

@Suite struct ClockTests {
    @Test func counterAndClockAgree() throws {
        let start = TSCSample()
        try pause(milliseconds: 200)
        let scale = TSCScale(from: start)
        // A stamp of now lies where the clock says that now is.
        let sample = TSCSample()
        #expect(abs(scale.nanoseconds(at: sample.tsc) - Double(sample.nanoseconds)) < 100_000)
        #expect(abs(scale.nanoseconds(at: start.tsc) - Double(start.nanoseconds)) < 1_000)
    }
}
