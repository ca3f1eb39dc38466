/// A cap on bytes per second over all lanes, changeable at any time.

import Glibc
import Synchronization

/// A token bucket. The bucket holds 20 ms worth, so that a cap is felt at once and bursts stay small.
package final class BandwidthLimiter: Sendable {
    private struct State {
        /// Bytes per second; nil is unlimited.
        var rate: UInt64?
        /// The instant at which all that was taken has been paid for.
        var paidUntil = MonotonicInstant(nanoseconds: 0)
    }

    private let state: Mutex<State>
    private static let burst: Duration = .milliseconds(20)

    package init(bytesPerSecond: UInt64?) { state = Mutex(State(rate: bytesPerSecond)) }

    /// What was taken under the old cap is forgiven: it must not be paid for at the new one.
    package func setLimit(bytesPerSecond: UInt64?) {
        state.withLock { state in
            state.rate = bytesPerSecond
            state.paidUntil = MonotonicInstant(nanoseconds: 0)
        }
    }

    /// Accounts for bytes that were sent, and sleeps until they are paid for; 100 ms at a time, as a lane that is
    /// interrupted or given a new cap must not sleep on. A stripe at a low cap is worth seconds.
    package func account(_ bytes: UInt64, isInterrupted: () -> Bool = { false }) {
        state.withLock { state in
            guard let rate = state.rate, rate > 0 else { return }
            let cost = min(Double(bytes) / Double(rate), 3600)
            state.paidUntil = max(state.paidUntil, .now) + .seconds(cost)
        }
        while !isInterrupted() {
            let pause = state.withLock { ($0.paidUntil - .now) - Self.burst }
            let nanoseconds = min(pause.clampedNanoseconds, 100_000_000)
            guard pause > .zero, nanoseconds > 0 else { return }
            var time = timespec(tv_sec: 0, tv_nsec: Int(nanoseconds))
            unsafe nanosleep(&time, nil)
        }
    }
}
