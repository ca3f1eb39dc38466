/// What the guest itself says about a migration; the same for both programs.

import HarnessSupport

/// The guest's command line in a cell.
struct GuestOptions {
    let words: String

    init(_ cell: Cell) {
        // All of memory is filled with incompressible bytes, and all of it is what the guest writes to.
        words = "rate=\(cell.dirtyRate) content=random"
    }
}

/// When the VM was stopped and resumed as its VMM saw it (CLOCK_MONOTONIC nanoseconds).
struct SwitchWindow {
    var stopped: Double
    var resumed: Double
}

/// The largest gap that the guest feels in a second in which nothing happens: the machine's own noise.
func quietGap(_ console: GuestConsole, _ clock: TSCSample) throws -> Double {
    try console.resetGaps()
    try pause(milliseconds: 1000)
    let scale = TSCScale(from: clock)
    let noise = try console.report().largestGap.map { scale.milliseconds($0.ticks) } ?? 0
    // Printing is work too; the migration's gaps begin after it.
    try console.resetGaps()
    try pause(milliseconds: 200)
    return noise
}

/// Asks the guest, at the destination, for its gaps and its verdict, and lets it check every page.
func judgeGuest(
    _ console: GuestConsole, _ clock: TSCSample, since start: UInt64, window: SwitchWindow?,
    into record: inout RunRecord
) throws {
    try pause(milliseconds: 300)
    let report = try console.report()
    let scale = TSCScale(from: clock)
    let began = Double(start)
    let felt = report.gaps.filter { scale.nanoseconds(at: $0.to) > began }
    record.feltGap = felt.map { scale.milliseconds($0.ticks) }.max()
    // The stamps around the switch enclose what the VMMs saw, give or take the reading of clocks.
    let slack = 0.5e6
    let around =
        window.map { window in
            felt.filter {
                scale.nanoseconds(at: $0.from) < window.resumed + slack
                    && scale.nanoseconds(at: $0.to) > window.stopped - slack
            }
        } ?? felt
    // The guest keeps its largest gaps only: if the switch is not among them, it was shorter than the shortest of them.
    record.blackout = (around.isEmpty ? felt.min { $0.ticks < $1.ticks } : around.max { $0.ticks < $1.ticks })
        .map { scale.milliseconds($0.ticks) }

    record.wrongPages = try console.verify(seconds: 120)
    let verdict = try console.report()
    if let wrong = record.wrongPages, wrong > 0 {
        throw HarnessError("\(wrong) wrong pages: \(console.badLines.prefix(3).joined(separator: " | "))")
    }
    record.otherFaults = verdict.passed ? nil : verdict.faults
}
