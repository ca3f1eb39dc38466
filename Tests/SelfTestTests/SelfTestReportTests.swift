import Foundation
import SelfTest
import Testing
import Units

@Suite struct SelfTestReportTests {
    static let cpuLine = """
        selftest: event=cpu cpu=1 sequence=9 written=8 read=7 verified=6 errors=1 ticks=4 stalls=0 tsc_backward=0 tsc_step=0 \
        clock_backward=0 register_checks=3 register_failures=1 register_mask=0x30 heartbeat_failures=0
        """
    static let summaryLine = """
        selftest: event=report elapsed_ms=2121 cpus=2 pages=16384 tsc_khz=2596134 sequence=43012 written=24376 read=0 \
        verified=40760 errors=1 ticks=1994 stalls=0 tsc_backward=0 clock_backward=0 register_failures=1 \
        heartbeat_failures=0 gap_ns=5605585 gap_from=5629134652856 gap_to=5629149205706 verdict=fail
        """
    static let badLine = """
        selftest: event=bad page=1000 gpa=0x7e8000 kind=corrupt cpu=0 number_expected=0x464c4553000003e8 \
        number_found=0x464c4553000003e8 generation_expected=1 generation_found=1 checksum_expected=0xd6c74cfe \
        checksum_found=0xd6c74cfe sum_expected=0xbec79d4c6800d1b2 sum_found=0x987f66638cd33db2 tsc=6614563004738
        """

    @Test func readsAReportHoweverItArrives() throws {
        let text = [
            "SeaBIOS is chatty",
            "selftest: event=boot version=1 cpus=2 tsc_khz=2596134 tsc_source=kvmclock "
                + "kvmclock=1 avx=1 fsgsbase=1 timer_hz=1000 timer_mode=periodic idle=halt seed=1",
            "selftest: event=ready pages=16384 first=0x400000 last=0x43ff000 elapsed_ms=323", Self.badLine,
            "selftest: event=verify pages=16384 bad=1 ms=8", Self.cpuLine,
            "selftest: event=gap cpu=1 ns=5 from=10 to=23", Self.summaryLine, "selftest: event=exit code=1", "",
        ].joined(separator: "\r\n")
        var whole = SelfTestLineReader()
        #expect(whole.append(text.utf8).count == 8)
        var bytewise = SelfTestLineReader()
        for byte in text.utf8 { _ = bytewise.append(CollectionOfOne(byte)) }
        #expect(bytewise.report == whole.report)

        let report = whole.report
        #expect(report.boot?.tscSource == "kvmclock")
        #expect(report.ready?.firstPage == GuestAddress(0x400000))
        let bad = try #require(report.badPages.first)
        #expect(bad.page == 1000 && bad.kind == "corrupt" && bad.address == GuestAddress(0x7e8000))
        #expect(bad.expected.sum == 0xbec7_9d4c_6800_d1b2 && bad.found.sum == 0x987f_6663_8cd3_3db2)
        #expect(report.cpus.first?.lostRegisters == [.avx, .fs])
        #expect(report.cpus.first?.lostRegisters.description == "AVX, FS base")
        #expect(report.gaps == [SelfTestGap(cpu: 1, fromTSC: 10, toTSC: 23, nanoseconds: 5)])
        #expect(report.summary?.largestGap.duration == .nanoseconds(5_605_585))
        #expect(report.verdict == .fail)
        #expect(report.malformedLines.isEmpty)
        let json = try JSONEncoder().encode(report)
        #expect(try JSONDecoder().decode(SelfTestReport.self, from: json) == report)
    }

    @Test func aNewReportReplacesTheOldOne() {
        var reader = SelfTestLineReader()
        let report = "\(Self.cpuLine)\nselftest: event=gap cpu=1 ns=5 from=10 to=23\n\(Self.summaryLine)\n"
        _ = reader.append(report.utf8)
        _ = reader.append(report.utf8)
        #expect(reader.report.cpus.count == 1)
        #expect(reader.report.gaps.count == 1)
    }

    @Test(arguments: [
        "selftest: event=gap cpu=1 ns=5 from=10", "selftest: event=gap cpu=1 ns=5 from=10 to=99999999999999999999999",
        "selftest: event=gap cpu=-1x ns=5 from=1 to=2", "selftest: event=", "selftest: event=future value=1",
        "selftest: hello", "selftest:", "selftest: event=ready pages=0x first=0x1 last=2 elapsed_ms=3",
    ])
    func saysWhatItCannotRead(_ line: String) {
        #expect(SelfTestEvent(line: line) == .malformed(line))
    }

    /// Whatever a hostile guest prints: no trap, and no more kept than the limits say.
    @Test func randomDamageNeverTraps() {
        var generator = SystemRandomNumberGenerator()
        let lines = [Self.cpuLine, Self.summaryLine, Self.badLine].map { Array($0.utf8) }
        var reader = SelfTestLineReader()
        for _ in 0..<3000 {
            var line = lines[Int.random(in: 0..<lines.count, using: &generator)]
            for _ in 0..<Int.random(in: 1...6, using: &generator) {
                let place = Int.random(in: 0..<line.count, using: &generator)
                switch Int.random(in: 0..<3, using: &generator) {
                case 0: line[place] = UInt8.random(in: 0...255, using: &generator)
                case 1: line.remove(at: place)
                default: line.insert(UInt8.random(in: 0x20...0x7e, using: &generator), at: place)
                }
            }
            _ = reader.append(line + [0x0a])
            _ = try? SelfTestOptions(commandLine: String(decoding: line, as: UTF8.self))
        }
        #expect(reader.report.badPages.count <= 3000)
    }

    @Test func foreignLinesAreNotTheGuests() {
        #expect(SelfTestEvent(line: "") == nil)
        #expect(SelfTestEvent(line: "event=boot selftest:") == nil)
    }

    @Test func anEndlessLineIsDroppedAndTheNextIsRead() {
        var reader = SelfTestLineReader()
        _ = reader.append([UInt8](repeating: 0x41, count: 1 << 20))
        #expect(reader.append("\nselftest: event=exit code=0\n".utf8) == [.exit(code: 0)])
        #expect(reader.report.verdict == .pass)
    }

    @Test func anErrorIsFatal() {
        var reader = SelfTestLineReader()
        _ = reader.append("selftest: event=error reason=memory available_mib=250\n".utf8)
        #expect(reader.report.error == "memory available_mib=250")
        #expect(reader.report.verdict == .fatal)
    }

    /// Spans do not go through the macros.
    private func look(_ bytes: [UInt8]) -> SelfTestHeartbeat? { SelfTestHeartbeat(bytes.span.bytes) }

    @Test func readsTheSharedPage() throws {
        let image = SelfTestImage.bytes
        let start = Int(SelfTestImage.sharedAddress.rawValue - SelfTestImage.loadAddress.rawValue)
        var shared = Array(image[start..<start + SelfTestImage.sharedByteCount(cpuCount: 2)])
        let fresh = try #require(look(shared))
        #expect(fresh.state == .absent && fresh.cpus.isEmpty && fresh.largestGap == nil)

        // Two vCPUs at 1 GHz; the second has had a gap of 1000 cycles.
        shared[16] = 2
        for (index, byte) in [0x40, 0x42, 0x0f].enumerated() { shared[32 + index] = UInt8(byte) }
        shared[4096 + 512 + 128] = 1
        shared[4096 + 512 + 128 + 8] = 0xe9
        shared[4096 + 512 + 128 + 9] = 0x03
        let heartbeat = try #require(look(shared))
        #expect(heartbeat.cpus.count == 2)
        #expect(heartbeat.largestGap == SelfTestGap(cpu: 1, fromTSC: 1, toTSC: 1001, nanoseconds: 1000))

        // A count that the copy does not hold, a foreign magic, and nothing at all.
        #expect(look(shared.dropLast()) == nil)
        shared[0] ^= 1
        #expect(look(shared) == nil)
        #expect(look([]) == nil)
    }
}
