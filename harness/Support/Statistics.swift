/// Medians and what they are worth.

/// A sample of one figure over the runs of a contender.
public struct Sample: Sendable {
    public let sorted: [Double]

    /// Nil of nothing.
    public init?(_ values: [Double]) {
        if values.isEmpty { return nil }
        sorted = values.sorted()
    }

    public var count: Int { sorted.count }
    public var largest: Double { sorted[sorted.count - 1] }

    public var median: Double { Self.median(sorted) }

    /// The value that `share` of the runs stay at or below (nearest rank).
    public func percentile(_ share: Double) -> Double {
        let rank = Int((share * Double(sorted.count)).rounded(.up))
        return sorted[max(0, min(sorted.count, rank) - 1)]
    }

    private static func median(_ sorted: [Double]) -> Double {
        let middle = sorted.count / 2
        return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }

    /// The 95 % interval of the ratio of medians, by drawing both samples again and again. The draws are the same in
    /// each report of the same results.
    public func ratioInterval(to other: Sample, draws: Int = 2000) -> ClosedRange<Double> {
        var random = SplitMix(state: 0x5eed)
        func draw(_ sample: Sample) -> Double {
            let values = (0..<sample.count).map { _ in
                sample.sorted[Int(random.next() % UInt64(sample.count))]
            }
            return Self.median(values.sorted())
        }
        let ratios = (0..<draws).map { _ in draw(self) / draw(other) }.sorted()
        return ratios[draws / 40]...ratios[draws - 1 - draws / 40]
    }
}
