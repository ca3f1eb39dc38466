import Foundation
import SelfTest
import Testing
import Units

/// The guest in QEMU, as peers run it. Needs Debian's qemu-system-x86; without it these tests are skipped. Most run on
/// QEMU's emulator: it needs no /dev/kvm, and on kvm_pvm it gets through the firmware ten times faster.
@Suite(
    .serialized,
    .enabled(if: QEMU.isInstalled, "the guest is not tried in QEMU: \(QEMU.path) is missing (qemu-system-x86)"))
struct SelfTestInQEMUTests {
    private static let beds: [(QEMU.Accelerator, Int)] =
        [(.tcg, 1), (.tcg, 2)] + (QEMU.hasKVM ? [(.kvm, 2)] : [])

    @Test(arguments: beds)
    func bootsWorksAndPasses(_ accelerator: QEMU.Accelerator, cpus: Int) throws {
        // Peers may lose AVX (see report.S); our own machine is tested with it.
        let guest = try QEMU(
            accelerator, memoryMiB: 128, cpus: cpus,
            commandLine: "memory=64 init=32 rate=100 reads=50 pattern=hotcold fill=256 seconds=1")
        #expect(try guest.waitUntilReady().pageCount == 64 * 256)
        #expect(try guest.waitForExit() == 1, "isa-debug-exit: 0 << 1 | 1")
        let report = guest.report
        #expect(report.verdict == .pass)
        #expect(report.boot?.cpuCount == cpus)
        #expect(report.cpus.count == cpus)
        let summary = try #require(report.summary)
        // How much is done in a second depends on what else the host does.
        for cpu in report.cpus {
            #expect(cpu.counters.pagesWritten > 0 && cpu.counters.pagesRead > 0)
            #expect(cpu.counters.timerTicks > 0 && cpu.registerChecks > 0)
        }
        #expect(summary.counters.pagesVerified >= 64 * 256 + summary.counters.pagesWritten)
        #expect(summary.largestGap.nanoseconds > 0 && report.gaps.count == 24 * cpus)
        #expect(report.verifications.map(\.badPageCount) == [0])
    }

    @Test(arguments: SelfTestOptions.Pattern.allCases)
    func everyPatternKeepsItsPagesRight(_ pattern: SelfTestOptions.Pattern) throws {
        var options = SelfTestOptions()
        options.memoryMiB = 32
        options.workingSetMiB = 16
        options.pattern = pattern
        options.writeRate = .unlimited
        options.readRate = .megabytesPerSecond(20)
        options.phaseSeconds = 1
        options.content = .text
        options.timerMode = .periodic
        options.idle = .spin
        options.seconds = 1
        let guest = try QEMU(.tcg, memoryMiB: 64, commandLine: options.commandLine)
        #expect(try guest.waitForExit() == 1)
        let summary = try #require(guest.report.summary)
        #expect(summary.passed)
        #expect((summary.counters.pagesWritten > 0) == (pattern != .idle))
    }

    /// The fault of issue 2: a byte of the guest's memory changes behind its back.
    @Test func findsAFlippedByte() throws {
        let guest = try QEMU(.tcg, memoryMiB: 64, commandLine: "memory=32 timer=100")
        let ready = try guest.waitUntilReady()
        #expect(try guest.verify().badPageCount == 0)

        let page = 1234
        let address = ready.firstPage.rawValue + UInt64(page) * 4096
        try guest.withStoppedVM { vm in
            let before = try vm.read(address + 3000, count: 1)
            try vm.write([before[0] ^ 0x10], to: address + 3000)
        }
        #expect(try guest.verify().badPageCount == 1)
        let bad = try #require(guest.report.badPages.first)
        #expect(bad.page == page && bad.address.rawValue == address && bad.kind == "corrupt")
        #expect(bad.expected.number == bad.found.number && bad.expected.generation == bad.found.generation)
        #expect(bad.expected.sum != bad.found.sum)

        // It is told once; the run goes on, and its verdict stays.
        #expect(try guest.verify().badPageCount == 0)
        try guest.send("q")
        #expect(try guest.waitForExit() == 3, "isa-debug-exit: 1 << 1 | 1")
        #expect(guest.report.verdict == .fail)
    }

    @Test func tellsStaleZeroForeignAndLostPagesApart() throws {
        // One vCPU rewrites 256 pages about once a second; the others stay as they are.
        let guest = try QEMU(.tcg, memoryMiB: 64, commandLine: "memory=32 ws=1 rate=1 pattern=sequential")
        let ready = try guest.waitUntilReady()
        func address(_ page: Int) -> UInt64 { ready.firstPage.rawValue + UInt64(page) * 4096 }
        let old = try guest.withStoppedVM { vm in
            try vm.write(try vm.read(address(1000), count: 4096), to: address(1001))
            try vm.write([UInt8](repeating: 0, count: 4096), to: address(2000))
            return try vm.read(address(7), count: 4096)
        }
        // The generation is the first byte of the stamp.
        for _ in 0..<50 where try guest.withStoppedVM({ try $0.read(address(7) + 8, count: 1) }) == [old[8]] {
            usleep(200_000)
        }
        try guest.withStoppedVM { try $0.write(old, to: address(7)) }
        _ = try guest.verify()
        let kinds = Dictionary(
            guest.report.badPages.map { ($0.page, $0.kind) }, uniquingKeysWith: { first, _ in first })
        #expect(kinds == [7: "stale", 1001: "other", 2000: "zero"])
        let stale = try #require(guest.report.badPages.first { $0.page == 7 })
        #expect(stale.found.generation < stale.expected.generation)
    }

    /// The first vCPU is made to believe that it has seen a much later TSC (C_LAST_TSC in guest/layout.S). It must notice,
    /// and go on working instead of waiting for the TSC to catch up.
    @Test func noticesAClockThatGoesBack() throws {
        let guest = try QEMU(.tcg, memoryMiB: 64, commandLine: "memory=32 rate=10 reads=10 timer=100")
        _ = try guest.waitUntilReady()
        // The work begins, and with it the clock's history, just after that line.
        _ = try guest.verify()
        try guest.withStoppedVM { vm in
            let byte = try vm.read(0x140010 + 6, count: 1)[0]
            try vm.write([byte &+ 1], to: 0x140010 + 6)
        }
        #expect(try guest.verify().badPageCount == 0)
        try guest.send("q")
        #expect(try guest.waitForExit() == 3)
        let cpu = try #require(guest.report.cpus.first)
        #expect(cpu.counters.tscBackward == 1 && cpu.tscStep > 1 << 47)
        #expect(guest.report.verdict == .fail)
    }

    /// The page directory of the owned memory is taken away: a page fault in ring 3.
    @Test func tellsOfAnExceptionNobodyExpected() throws {
        let guest = try QEMU(.tcg, memoryMiB: 64, commandLine: "memory=32 timer=100")
        _ = try guest.waitUntilReady()
        try guest.withStoppedVM { try $0.write([UInt8](repeating: 0, count: 4096), to: 0x200000) }
        try guest.send("v")
        #expect(try guest.waitForExit() == 5, "isa-debug-exit: 2 << 1 | 1")
        let fault = try #require(guest.report.fault)
        #expect(fault.vector == 14 && fault.cr2.rawValue >> 40 == 1, "an address from 0x10000000000 on: \(fault)")
        #expect(guest.report.verdict == .fatal)
    }

    @Test func refusesWhatItCannotDo() throws {
        for (line, reason) in [("rate=1 memroy=5", "option value=memroy=5"), ("memory=4000", "memory available")] {
            let guest = try QEMU(.tcg, memoryMiB: 64, commandLine: line)
            #expect(try guest.waitForExit() == 5, "isa-debug-exit: 2 << 1 | 1")
            #expect(guest.report.error?.hasPrefix(reason) == true, "\(guest.report)")
            #expect(guest.report.verdict == .fatal)
        }
    }

    /// QEMU itself moves the guest while it writes; the guest must not notice but for a gap.
    @Test(.enabled(if: QEMU.hasKVM, "QEMU's migration is not tried: /dev/kvm is missing"))
    func survivesQEMUsMigration() throws {
        let source = try QEMU(
            .kvm, memoryMiB: 256, cpus: 2, commandLine: "memory=200 rate=100 vector=sse timer=500")
        let ready = try source.waitUntilReady()
        let destination = try QEMU(.kvm, memoryMiB: 256, cpus: 2, commandLine: "", incoming: true)
        usleep(500_000)
        try source.migrate(to: destination)
        #expect(try destination.verify().badPageCount == 0)
        try destination.send("q")
        #expect(try destination.waitForExit() == 1)
        let report = destination.report
        #expect(report.verifications.allSatisfy { $0.badPageCount == 0 && $0.pageCount == ready.pageCount })
        #expect(report.verdict == .pass)
        let gap = try #require(report.summary).largestGap
        #expect(gap.toTSC > gap.fromTSC && gap.duration < .seconds(10))
    }
}
