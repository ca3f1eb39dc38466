/// Time, waiting and the signals that end a wait.

import CHarness
import Glibc

/// CLOCK_MONOTONIC in nanoseconds: the same clock in every process of this host.
public func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// CLOCK_REALTIME in nanoseconds, as QEMU stamps its events.
public func realtimeNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// The processor's time stamp counter and CLOCK_MONOTONIC at one moment.
public struct TSCSample: Sendable {
    public let tsc: UInt64
    public let nanoseconds: UInt64

    /// Reads both so often that at least one pair was not torn apart by the scheduler.
    public init() {
        var best: (width: UInt64, tsc: UInt64, nanoseconds: UInt64) = (.max, 0, 0)
        for _ in 0..<200 {
            let before = harness_tsc()
            let nanoseconds = monotonicNanoseconds()
            let width = harness_tsc() &- before
            if width < best.width { best = (width, before &+ width / 2, nanoseconds) }
        }
        tsc = best.tsc
        nanoseconds = best.nanoseconds
    }
}

/// How the two relate. Guests stamp with the counter.
public struct TSCScale: Sendable {
    private let nanosecondsPerTick: Double
    private let end: TSCSample

    /// Between two moments, which should be seconds apart.
    public init(from start: TSCSample, to end: TSCSample = TSCSample()) {
        nanosecondsPerTick = Double(end.nanoseconds &- start.nanoseconds) / Double(max(end.tsc &- start.tsc, 1))
        self.end = end
    }

    /// CLOCK_MONOTONIC nanoseconds at `stamp`, before or after the end.
    public func nanoseconds(at stamp: UInt64) -> Double {
        let ticks = Double(Int64(bitPattern: stamp &- end.tsc))
        return Double(end.nanoseconds) + ticks * nanosecondsPerTick
    }

    /// The length of `ticks` in milliseconds.
    public func milliseconds(_ ticks: UInt64) -> Double {
        Double(ticks) * nanosecondsPerTick / 1e6
    }
}

/// Throws once SIGINT, SIGTERM or SIGHUP has come, so that every wait ends and everything started is stopped.
public func checkInterruption() throws {
    let signal = harness_caught_signal()
    if signal != 0 {
        throw HarnessError("stopped by signal \(signal)")
    }
}

/// Sleeps; ends early by throwing when a signal comes.
public func pause(milliseconds: Int) throws {
    try checkInterruption()
    let end = monotonicNanoseconds() + UInt64(milliseconds) * 1_000_000
    while true {
        let now = monotonicNanoseconds()
        if now >= end {
            return
        }
        let left = end - now
        var time = timespec(tv_sec: Int(left / 1_000_000_000), tv_nsec: Int(left % 1_000_000_000))
        nanosleep(&time, nil)
        try checkInterruption()
    }
}

/// Asks `condition` every `every` milliseconds until it gives a value; `what` names what is missing when time is up.
public func wait<Value>(
    for what: String, seconds: Double, every: Int = 5, _ condition: () throws -> Value?
) throws -> Value {
    let end = monotonicNanoseconds() + UInt64(seconds * 1e9)
    while true {
        if let value = try condition() {
            return value
        }
        if monotonicNanoseconds() > end {
            throw HarnessError("waited \(Int(seconds)) s in vain for \(what)")
        }
        try pause(milliseconds: every)
    }
}
