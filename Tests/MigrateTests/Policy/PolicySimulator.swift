/// Migrations that take no time: a guest that dirties memory by a formula, a link that is a number, and the real
/// policy between them.

import Foundation
import Migrate
import Units

/// How a guest writes. All of it is deterministic.
struct SimulatedGuest: Sendable {
    /// A set of pages that is written evenly, at a rate that may depend on time.
    struct Writer: Sendable {
        var pages: Double
        /// Bytes of pages written a second between two instants, on average.
        var rate: @Sendable (_ from: Double, _ to: Double) -> Double
    }

    var name: String
    var pages = 262_144
    var writers: [Writer]

    /// Distinct pages written between two instants, with the vCPUs held back by `throttle` percent.
    func dirtied(from: Double, to: Double, throttle: Int) -> Int {
        let share = 1 - Double(throttle) / 100
        let distinct = writers.reduce(0.0) { sum, writer in
            let writes = writer.rate(from, to) * (to - from) / Double(pageByteCount) * share
            return sum + writer.pages * (1 - exp(-writes / writer.pages))
        }
        return min(pages, Int(distinct.rounded()))
    }

    static func steady(_ rate: Double) -> @Sendable (Double, Double) -> Double { { _, _ in rate } }

    /// High for the first half of each period, low for the second.
    static func alternating(period: Double, high: Double, low: Double) -> @Sendable (Double, Double) -> Double {
        { from, to in
            func highTime(_ until: Double) -> Double {
                let whole = (until / period).rounded(.down)
                return whole * period / 2 + min(until - whole * period, period / 2)
            }
            let share = to > from ? (highTime(to) - highTime(from)) / (to - from) : 0
            return share * high + (1 - share) * low
        }
    }

    static let idle = Self(name: "idle", writers: [Writer(pages: 200, rate: steady(100e3))])
    static let busy200 = Self(name: "200 MB/s", writers: [Writer(pages: 200_000, rate: steady(200e6))])
    static let busy1000 = Self(name: "1000 MB/s", writers: [Writer(pages: 200_000, rate: steady(1000e6))])
    static let hotSet = Self(
        name: "hot set of 20 MB",
        writers: [Writer(pages: 5000, rate: steady(20e9)), Writer(pages: 200_000, rate: steady(20e6))])
    static let alternates = Self(
        name: "alternates every second",
        writers: [Writer(pages: 100_000, rate: alternating(period: 2, high: 900e6, low: 5e6))])
    static let calmsDown = Self(
        name: "calms down after 6 s",
        writers: [
            Writer(pages: 200_000) { from, to in
                let busy = max(0, min(to, 6) - min(from, 6))
                return to > from ? busy / (to - from) * 8e9 : 0
            }
        ])
    static let hopeless = Self(name: "hopeless", writers: [Writer(pages: 200_000, rate: steady(8e9))])
    static let all = [idle, busy200, busy1000, hotSet, alternates, calmsDown, hopeless]
}

struct SimulatedLink: Sendable {
    /// Bytes a second.
    var bandwidth = 1.5e9
    /// What a round costs beyond its bytes, in seconds.
    var roundOverhead = 0.001
    /// What a stop costs beyond its bytes, in seconds.
    var fixedCost = 0.003
}

struct SimulatedOutcome: Sendable {
    var decision: PreCopyDecision
    /// Seconds; 0 when the VM was not stopped.
    var downtime = 0.0
    var total = 0.0
    var rounds = 0
    var pagesSent = 0
    var throttle = 0

    var isMoved: Bool { if case .stopAndCopy = decision { true } else { false } }

    var gaveUp: GiveUpReason.Code? {
        if case .giveUp(let reason) = decision { reason.code } else { nil }
    }
}

struct PolicySimulator: Sendable {
    typealias Decide = @Sendable ([RoundStatistics], MigrationLimits, Duration, Duration) -> PreCopyDecision

    var guest: SimulatedGuest
    var link: SimulatedLink
    /// The limits at an instant: people change them while a migration runs.
    var limits: @Sendable (_ elapsed: Double) -> MigrationLimits
    var decide: Decide = { PreCopyPolicy.decide(history: $0, limits: $1, fixedCost: $2, elapsed: $3) }

    init(_ guest: SimulatedGuest, link: SimulatedLink = SimulatedLink(), limits: MigrationLimits = MigrationLimits()) {
        self.guest = guest
        self.link = link
        self.limits = { _ in limits }
    }

    func run() -> SimulatedOutcome {
        var outcome = SimulatedOutcome(decision: .anotherRound)
        var history: [RoundStatistics] = []
        var residue = guest.pages
        while true {
            let now = limits(outcome.total)
            let bandwidth = min(link.bandwidth, now.maxBandwidth.map { Double($0) } ?? .infinity)
            let fixed = Duration.seconds(link.fixedCost)
            // Swift 6.3.1 with -O loses the store when the switch below reads the property instead of this constant.
            let decision = decide(history, now, fixed, .seconds(outcome.total))
            outcome.decision = decision
            let bytes = Double(residue) * Double(pageByteCount)
            switch decision {
            case .stopAndCopy:
                outcome.downtime = bytes / bandwidth + link.fixedCost
                outcome.total += outcome.downtime
                outcome.pagesSent += residue
                return outcome
            case .giveUp: return outcome
            case .throttle(let percent): outcome.throttle = percent
            case .anotherRound: break
            }
            let duration = bytes / bandwidth + link.roundOverhead
            let dirtied = guest.dirtied(
                from: outcome.total, to: outcome.total + duration, throttle: outcome.throttle)
            history.append(
                RoundStatistics(
                    index: outcome.rounds, pagesSent: residue, bytes: UInt64(bytes), duration: .seconds(duration),
                    pagesDirtied: dirtied, residuePages: dirtied, throttle: outcome.throttle))
            outcome.total += duration
            outcome.pagesSent += residue
            outcome.rounds += 1
            residue = dirtied
            // A policy that never ends is a failed test, not a hung one.
            if outcome.rounds > 10_000 || outcome.total > 1e6 { return outcome }
        }
    }
}
