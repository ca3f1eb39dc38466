/// When pre-copy gives way to post-copy.

import Migrate
import Testing

@Suite struct SwitchPolicyTests {
    private func round(_ index: Int, sent: Int, residue: Int) -> RoundStatistics {
        RoundStatistics(
            index: index, pagesSent: sent, bytes: UInt64(sent) * 4096, duration: .milliseconds(100),
            pagesDirtied: residue,
            residuePages: residue)
    }

    private func decide(
        _ mode: MigrationMode, _ preCopy: PreCopyDecision, _ history: [RoundStatistics] = [], isForced: Bool = false
    ) -> SwitchDecision {
        SwitchPolicy.decide(mode: mode, preCopy: preCopy, history: history, memoryPages: 100_000, isForced: isForced)
    }

    private let stop = PreCopyDecision.stopAndCopy(DowntimePrediction(memory: .zero, fixed: .zero))

    @Test func modesThatLeaveNoChoice() {
        for preCopy in [PreCopyDecision.anotherRound, stop, .throttle(percent: 20)] {
            #expect(decide(.preCopy, preCopy, isForced: true) == .preCopy(preCopy))
            #expect(decide(.postCopy, preCopy) == .postCopy(.wanted))
        }
    }

    @Test func hybridPrefersPreCopyThatConverges() {
        let good = [round(0, sent: 100_000, residue: 20_000), round(1, sent: 20_000, residue: 4000)]
        #expect(decide(.hybrid, .anotherRound) == .preCopy(.anotherRound))
        #expect(decide(.hybrid, .anotherRound, Array(good.prefix(1))) == .preCopy(.anotherRound))
        #expect(decide(.hybrid, .anotherRound, good) == .preCopy(.anotherRound))
        #expect(decide(.hybrid, stop, good) == .preCopy(stop))
    }

    @Test func hybridSwitchesWhereRoundsDoNotHelp() {
        let stalled = [round(0, sent: 100_000, residue: 20_000), round(1, sent: 20_000, residue: 19_000)]
        #expect(decide(.hybrid, .anotherRound, stalled) == .postCopy(.noProgress))
        #expect(decide(.hybrid, .throttle(percent: 50), stalled) == .postCopy(.noProgress))
        let slow = [round(0, sent: 100_000, residue: 60_000)]
        #expect(decide(.hybrid, .anotherRound, slow) == .postCopy(.tooLong))
        #expect(decide(.hybrid, .anotherRound, isForced: true) == .postCopy(.forced))
    }

    /// Whatever the guest does: what is sent before the switch is at most one and a half times memory, so that with what
    /// follows no more than two and a half, and of what can be dirtied in the last round at most memory once.
    @Test func hybridEnds() {
        var generator = Xorshift(seed: 5)
        for _ in 0..<500 {
            var history = [round(0, sent: 100_000, residue: Int(generator.next() % 100_001))]
            var sent = 100_000
            while case .preCopy = decide(.hybrid, .anotherRound, history) {
                let residue = history[history.count - 1].residuePages
                sent += residue
                history.append(
                    round(history.count, sent: residue, residue: Int(generator.next() % UInt64(residue + 1))))
                #expect(sent <= 150_000)
                #expect(history.count < 200)
                if residue == 0 { break }
            }
        }
    }
}
