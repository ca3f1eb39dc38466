/// An average that forgets: each sample fades with its age.

import Glibc

/// An exponentially weighted average of samples that stand for different lengths of time. Until it has seen much more
/// time than its memory, it is the plain weighted mean of what it has seen (it does not start at zero and creep up).
public struct DecayingAverage: Equatable, Sendable {
    @usableFromInline var sum = 0.0
    @usableFromInline var weight = 0.0

    /// An average of nothing yet.
    public init() {}

    /// The average; zero before the first sample.
    @inlinable public var value: Double { weight > 0 ? sum / weight : 0 }

    /// Adds a sample whose share in the average is `share` (see `share(of:memory:)`).
    @inlinable
    public mutating func add(_ sample: Double, share: Double) {
        sum += (sample - sum) * share
        weight += (1 - weight) * share
    }

    /// The share of a sample that stands for `seconds`, where what is `memory` seconds old counts 1/e of the present.
    public static func share(of seconds: Double, memory: Double) -> Double {
        1 - exp(-seconds / memory)
    }
}
