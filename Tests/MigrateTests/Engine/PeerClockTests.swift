/// The distance of two hosts' clocks.

import Migrate
import Testing

@Suite struct PeerClockTests {
    private let here = [UInt8](repeating: 1, count: 16)
    private let there = [UInt8](repeating: 2, count: 16)

    @Test func theFastestRecordCounts() {
        var clock = PeerClock(boot: here)
        #expect(clock.offset == 0)
        // This host is 5 s ahead; the records were 900, 40 and 70 us on their way.
        for (sent, delay) in [(1_000_000_000, 900_000), (2_000_000_000, 40_000), (3_000_000_000, 70_000)] {
            clock.hear(
                ClockRecord(realtimeNanoseconds: UInt64(sent), boot: there),
                atNanoseconds: UInt64(sent + 5_000_000_000 + delay))
        }
        #expect(clock.offset == 5_000_040_000)
    }

    @Test func aHostBehindGivesLessThanNothing() {
        var clock = PeerClock(boot: here)
        clock.hear(ClockRecord(realtimeNanoseconds: 9_000, boot: there), atNanoseconds: 2_000)
        #expect(clock.offset == -7_000)
    }

    @Test func oneKernelHasOneClock() {
        var clock = PeerClock(boot: here)
        clock.hear(ClockRecord(realtimeNanoseconds: 9_000, boot: here), atNanoseconds: 12_000)
        #expect(clock.offset == 0)
        // Two that do not know their kernels may be anywhere.
        let unknown = [UInt8](repeating: 0, count: 16)
        var blind = PeerClock(boot: unknown)
        blind.hear(ClockRecord(realtimeNanoseconds: 9_000, boot: unknown), atNanoseconds: 12_000)
        #expect(blind.offset == 3_000)
    }

    @Test func nonsenseIsNotHeard() {
        var clock = PeerClock(boot: here)
        clock.hear(ClockRecord(realtimeNanoseconds: .max, boot: there), atNanoseconds: 12_000)
        #expect(clock.offset == 0)
        clock.hear(ClockRecord(realtimeNanoseconds: 0, boot: there), atNanoseconds: .max)
        #expect(clock.offset == 0)
    }

    @Test func thisKernelHasAName() {
        #expect(HostClock.boot.count == 16 && HostClock.boot.contains { $0 != 0 })
        #expect(HostClock.realtimeNanoseconds > 1_700_000_000_000_000_000)
    }
}
