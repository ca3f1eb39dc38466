/// Instants of CLOCK_MONOTONIC, the clock that all durations here are measured with.

import Glibc

/// Nanoseconds since an arbitrary point, the same for all processes of one host.
public struct MonotonicInstant: Hashable, Comparable, Sendable {
    public var nanoseconds: UInt64

    public init(nanoseconds: UInt64) { self.nanoseconds = nanoseconds }

    public static var now: MonotonicInstant {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return MonotonicInstant(nanoseconds: UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec))
    }

    public static func < (a: Self, b: Self) -> Bool { a.nanoseconds < b.nanoseconds }

    public static func + (instant: Self, duration: Duration) -> Self {
        let sum = instant.nanoseconds.addingReportingOverflow(duration.clampedNanoseconds)
        return MonotonicInstant(nanoseconds: sum.overflow ? .max : sum.partialValue)
    }

    /// From `earlier` to here; zero if it is later.
    public static func - (later: Self, earlier: Self) -> Duration {
        guard later > earlier else { return .zero }
        return .nanoseconds(Int64(clamping: later.nanoseconds - earlier.nanoseconds))
    }
}

extension Duration {
    /// Nanoseconds; 0 if negative, at most 2^63 - 1.
    public var clampedNanoseconds: UInt64 {
        let (seconds, attoseconds) = components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        let whole = UInt64(seconds).multipliedReportingOverflow(by: 1_000_000_000)
        let sum = whole.partialValue.addingReportingOverflow(UInt64(attoseconds) / 1_000_000_000)
        return whole.overflow || sum.overflow ? UInt64(Int64.max) : min(sum.partialValue, UInt64(Int64.max))
    }

    /// Seconds, for people and for rates.
    public var inSeconds: Double { Double(clampedNanoseconds) / 1e9 }
}
