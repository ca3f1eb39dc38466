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

/// How the processor's time stamp counter relates to CLOCK_MONOTONIC. Guests stamp with the counter.
public struct TSCScale: Sendable {
    public let nanosecondsPerTick: Double
    private let tsc: UInt64
    private let nanoseconds: UInt64

    /// Measures over a tenth of a second.
    public init() throws {
        let firstTSC = harness_tsc()
        let first = monotonicNanoseconds()
        try pause(milliseconds: 100)
        tsc = harness_tsc()
        nanoseconds = monotonicNanoseconds()
        nanosecondsPerTick = Double(nanoseconds - first) / Double(tsc - firstTSC)
    }

    /// CLOCK_MONOTONIC nanoseconds at `stamp`, which may lie before or after the measurement.
    public func nanoseconds(at stamp: UInt64) -> Double {
        let ticks = Double(Int64(bitPattern: stamp &- tsc))
        return Double(nanoseconds) + ticks * nanosecondsPerTick
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
