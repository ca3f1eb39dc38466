/// Listens to the test guest's serial line, and asks it things.

import Control
import Glibc
import SelfTest
import Synchronization

/// Puts the guest's lines together, on the thread that delivers serial output, and lets others wait for its answers.
final class GuestWatch: Sendable {
    private struct State {
        var reader = SelfTestLineReader()
        var summaries = 0
        var verifications = 0
        var resets = 0
        var hasSpoken = false
    }
    private let state = Mutex(State())
    /// One question at a time: answers do not say whose they are.
    private let turn = Mutex(())

    /// What the guest has said so far.
    var report: SelfTestReport? { state.withLock { $0.hasSpoken ? $0.reader.report : nil } }

    func append(_ bytes: [UInt8]) {
        state.withLock { state in
            for event in state.reader.append(bytes) {
                state.hasSpoken = true
                switch event {
                case .summary: state.summaries += 1
                case .verify: state.verifications += 1
                case .gapsReset: state.resets += 1
                default: break
                }
            }
        }
    }

    /// Asks the guest for a report.
    /// - Parameter type: types into the guest's serial line.
    func ask(
        _ request: GuestReportRequest, isAlive: () -> Bool, type: ([UInt8]) -> Int
    ) throws(ControlError) -> SelfTestReport {
        try turn.withLock { _ throws(ControlError) in
            let end = ContinuousClock.now + request.timeout
            if request.verify { try answer(\State.verifications, after: "v", end, isAlive, type) }
            try answer(\State.summaries, after: "r", end, isAlive, type)
            let report = state.withLock { $0.reader.report }
            if request.resetGaps { try answer(\State.resets, after: "g", end, isAlive, type) }
            return report
        }
    }

    private func answer(
        _ count: any KeyPath<State, Int> & Sendable, after command: String, _ end: ContinuousClock.Instant,
        _ isAlive: () -> Bool,
        _ type: ([UInt8]) -> Int
    ) throws(ControlError) {
        let before = state.withLock { $0[keyPath: count] }
        guard type(Array(command.utf8)) == 1 else {
            throw ControlError(
                .unsupported, "The guest does not read its serial line: it cannot be asked for a report.")
        }
        while state.withLock({ $0[keyPath: count] }) == before {
            guard isAlive() else { throw ControlError(.wrongState, "The VM stopped before the guest had answered.") }
            guard ContinuousClock.now < end else {
                throw ControlError(
                    .unsupported,
                    "The guest has not answered: only the selftest guest gives reports, and only while it runs.")
            }
            usleep(2_000)
        }
    }
}
