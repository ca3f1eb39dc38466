/// The devices of a PC that need no guest to be tried.

import Machine
import Synchronization
import Testing

struct RealTimeClockTests {
    /// A clock whose host's time the test sets.
    private final class Bench: Sendable {
        let now = Mutex<Int64>(0)
    }
    private let bench = Bench()
    private let clock: RealTimeClock

    init() {
        let bench = bench
        clock = RealTimeClock { bench.now.withLock { $0 } }
    }

    private func read(_ register: UInt8) -> UInt8 {
        clock.writePort(offset: 0, size: 1, value: UInt32(register))
        return UInt8(truncatingIfNeeded: clock.readPort(offset: 1, size: 1))
    }

    private func write(_ register: UInt8, _ value: UInt8) {
        clock.writePort(offset: 0, size: 1, value: UInt32(register))
        clock.writePort(offset: 1, size: 1, value: UInt32(value))
    }

    private var time: [UInt8] { [0x32, 9, 8, 7, 4, 2, 0].map(read) }

    @Test func tellsTheTimeInDecimalDigits() {
        bench.now.withLock { $0 = 1_795_367_310 }  // 2026-11-22 17:08:30
        #expect(time == [0x20, 0x26, 0x11, 0x22, 0x17, 0x08, 0x30])
        #expect(read(6) == 1)  // a Sunday
        #expect(read(13) == 0x80)
        #expect(read(10) & 0x80 == 0)
    }

    @Test func tellsItInBinaryAndInTwelveHours() {
        bench.now.withLock { $0 = 1_795_367_310 }
        write(11, 0x06)
        #expect(time == [20, 26, 11, 22, 17, 8, 30])
        write(11, 0x00)
        #expect(time == [0x20, 0x26, 0x11, 0x22, 0x85, 0x08, 0x30])
        bench.now.withLock { $0 = 1_795_367_310 - 17 * 3600 }
        #expect(read(4) == 0x12)  // midnight is 12 in the morning
    }

    @Test func goesOnFromWhereTheGuestSetIt() {
        bench.now.withLock { $0 = 1_795_367_310 }
        write(11, 0x82)
        let values: [(UInt8, UInt8)] = [
            (0x32, 0x19), (9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x58),
        ]
        for (register, value) in values { write(register, value) }
        bench.now.withLock { $0 += 100 }
        #expect(read(0) == 0x58)  // it does not count meanwhile
        write(11, 0x02)
        bench.now.withLock { $0 += 3 }
        #expect(time == [0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x01])
    }

    @Test func keepsItsMemory() {
        write(0x40, 0x5A)
        #expect(read(0x40) == 0x5A)
        // The highest bit of the index masks the NMI.
        clock.writePort(offset: 0, size: 1, value: 0xC0)
        #expect(clock.readPort(offset: 1, size: 1) == 0x5A)
    }

    @Test func nothingThatAGuestWritesIsTooMuch() {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<100_000 {
            let bits = generator.next()
            clock.writePort(offset: UInt16(bits & 1), size: 1, value: UInt32(truncatingIfNeeded: bits >> 8))
            if bits & 0x70 == 0 { bench.now.withLock { $0 = Int64(bitPattern: generator.next()) } }
            _ = clock.readPort(offset: UInt16(bits >> 1 & 1), size: 1)
        }
    }

    @Test func calendarAgreesWithItself() {
        #expect(CalendarTime(secondsSince1970: 0) == .init(year: 1970, month: 1, day: 1, hour: 0, minute: 0, second: 0))
        #expect(CalendarTime(secondsSince1970: 951_782_400).day == 29)  // 2000-02-29
        #expect(CalendarTime(secondsSince1970: .max).year == 9999)
        #expect(CalendarTime(secondsSince1970: .min).year == 0)
        #expect(CalendarTime(year: 2026, month: 13, day: 1, hour: 0, minute: 0, second: 0).secondsSince1970 == nil)
        var weekday = CalendarTime(secondsSince1970: -62_167_219_200).weekday
        // Every day of 10,000 years, at odd times.
        for day in stride(from: Int64(-719_528), to: 2_932_897, by: 1) {
            let instant = day * 86_400 + (day & 0xFFFF)
            let time = CalendarTime(secondsSince1970: instant)
            guard time.secondsSince1970 == instant, time.weekday == weekday else {
                Issue.record("\(instant): \(time), weekday \(time.weekday)")
                return
            }
            weekday = weekday % 7 + 1
        }
        #expect(CalendarTime(secondsSince1970: 0).weekday == 5)  // a Thursday
    }
}

struct MemoryBusTests {
    private final class Recorder: MemoryDevice {
        let writes = Mutex<[UInt64]>([])
        func readMemory(offset: UInt64, size: Int) -> UInt64 { offset << 8 | UInt64(size) }
        func writeMemory(offset: UInt64, size: Int, value: UInt64) { writes.withLock { $0.append(value) } }
    }

    @Test func accessesFindTheirDevice() {
        let bus = MemoryBus()
        let (first, second) = (Recorder(), Recorder())
        bus.add(0x2000..<0x3000, second)
        bus.add(0x1000..<0x2000, first)
        #expect(bus.read(0x1004, size: 4) == 0x404)
        #expect(bus.read(0x2FFC, size: 4) == 0xFFC04)
        bus.write(0x2000, size: 8, value: 7)
        #expect(second.writes.withLock { $0 } == [7] && first.writes.withLock { $0.isEmpty })
    }

    @Test func elsewhereIsNothing() {
        let bus = MemoryBus()
        let device = Recorder()
        bus.add(0x1000..<0x2000, device)
        #expect(
            bus.read(0xFFF, size: 1) == .max && bus.read(0x2000, size: 4) == .max && bus.read(.max, size: 8) == .max)
        // Half inside is not inside.
        #expect(bus.read(0x1FFE, size: 4) == .max)
        bus.write(0x1FFE, size: 4, value: 1)
        bus.write(.max, size: 8, value: 1)
        #expect(device.writes.withLock { $0.isEmpty })
    }
}
