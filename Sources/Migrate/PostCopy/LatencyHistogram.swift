/// How long things took, in buckets of 6 % each: percentiles without keeping every value.

/// Counts of nanoseconds. Recording allocates nothing.
package struct LatencyHistogram: Sendable {
    private var counts: [UInt64]
    package private(set) var count: UInt64 = 0
    package private(set) var longest: UInt64 = 0

    /// 16 buckets for each power of two.
    private static let bits = 4

    package init() { counts = Array(repeating: 0, count: 64 << Self.bits) }

    private static func bucket(_ value: UInt64) -> Int {
        let magnitude = 63 - (value | 1).leadingZeroBitCount
        guard magnitude >= bits else { return Int(value) }
        let fraction = Int(truncatingIfNeeded: value >> UInt64(magnitude - bits)) & (1 << bits - 1)
        return (magnitude - bits + 1) << bits + fraction
    }

    /// The largest value that falls into a bucket.
    private static func upperBound(_ bucket: Int) -> UInt64 {
        let group = bucket >> bits
        guard group > 0 else { return UInt64(bucket) }
        let base = UInt64(1 << bits + bucket & (1 << bits - 1))
        return (base + 1) << UInt64(group - 1) &- 1
    }

    package mutating func record(nanoseconds: UInt64) {
        counts[Self.bucket(nanoseconds)] &+= 1
        count &+= 1
        longest = max(longest, nanoseconds)
    }

    /// The value that so many of all were at most; 0 when there is none.
    package func percentile(_ share: Double) -> UInt64 {
        guard count > 0 else { return 0 }
        let wanted = max(1, UInt64((Double(count) * min(max(share, 0), 1)).rounded(.up)))
        var seen: UInt64 = 0
        for (bucket, number) in counts.enumerated() {
            seen += number
            if seen >= wanted { return min(Self.upperBound(bucket), longest) }
        }
        return longest
    }

    package var times: PagingTimes {
        PagingTimes(
            faults: count, p50: percentile(0.5), p99: percentile(0.99), p999: percentile(0.999), longest: longest)
    }
}
