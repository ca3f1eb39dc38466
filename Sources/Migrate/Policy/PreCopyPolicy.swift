/// Decides after each round what to do next: a pure function of the rounds so far (docs/policy.md explains the rules
/// and where they come from).
///
/// The two questions are not the same. *May* the VM be stopped: is the predicted downtime within the limit? *Should*
/// it be stopped now: would another round, or waiting for a calmer moment, make the downtime noticeably shorter?

import Units

/// What to do next.
public enum PreCopyDecision: Hashable, Sendable {
    /// Send the residue while the VM runs on.
    case anotherRound
    /// Stop the VM and send the rest.
    case stopAndCopy(DowntimePrediction)
    /// Hold the vCPUs back by so many percent, and send the residue meanwhile.
    case throttle(percent: Int)
    /// Leave the VM where it runs.
    case giveUp(GiveUpReason)
}

/// Why a migration is given up. The VM runs on at the source.
public struct GiveUpReason: Hashable, Sendable {
    public enum Code: Hashable, Sendable {
        /// The next round would end after `maxTime`, and the downtime is still too long.
        case outOfTime
        /// The guest dirties memory as fast as it is sent; more rounds do not bring the downtime down.
        case noProgress
    }

    public var code: Code
    /// The best downtime that any round offered, and what it would have been now.
    public var best: Duration
    public var now: Duration
    /// Bytes a second that the guest dirties, and that were moved.
    public var dirtyRate: Double
    public var goodput: Double
}

public enum PreCopyPolicy {
    /// The constants of the rules, in one place so that a simulator can vary them.
    public struct Tuning: Hashable, Sendable {
        /// A further round must shorten the downtime by this share...
        public var worthwhileShare = 0.1
        /// ...and by this much.
        public var worthwhileGain = Duration.microseconds(500)
        /// What a round costs beyond sending its pages.
        public var roundOverhead = Duration.milliseconds(1)
        /// Rounds to wait, within the limit, for a moment as calm as the best one seen.
        public var calmPatience = 4
        /// A moment is as calm as the best one when its downtime is at most this many times as long.
        public var calmFactor = 1.5
        /// Rounds without progress before throttling, by policy.
        public var throttlePatience = 3
        /// Rounds without progress before giving up, when no time limit says how long to go on...
        public var giveUpPatience = 10
        /// ...and the time that they must have taken: short rounds are no reason to hurry.
        public var giveUpTime = Duration.seconds(5)
        /// The same for `no-disruption`, which has no reason to insist.
        public var shortPatience = 5
        public var shortTime = Duration.seconds(2)
        /// A round of at least this many pages measures the link; a shorter one measures its own overhead.
        public var telltalePages = 1024

        public init() {}
    }

    /// The decision after the latest round of `history`.
    ///
    /// - Parameters:
    ///   - fixedCost: the part of the downtime that does not depend on memory, measured or assumed.
    ///   - elapsed: since the migration began.
    public static func decide(
        history: [RoundStatistics], limits: MigrationLimits, fixedCost: Duration, elapsed: Duration,
        tuning: Tuning = .init()
    ) -> PreCopyDecision {
        guard let last = history.last else { return .anotherRound }
        let outlook = Outlook(history: history, last: last, limits: limits, fixed: fixedCost, tuning: tuning)
        let isAllowed = outlook.now.total <= limits.maxDowntime
        let isLastChance = limits.maxTime.map { elapsed + outlook.nextRound + outlook.next.total > $0 } ?? false
        if isAllowed {
            let waits = !isLastChance && (outlook.isWorthwhile || outlook.mayCalmDown(limits.policy))
            return waits ? .anotherRound : .stopAndCopy(outlook.now)
        }
        if isLastChance { return .giveUp(outlook.reason(.outOfTime)) }
        if let percent = outlook.throttle(limits) { return .throttle(percent: percent) }
        if outlook.isHopeless(limits) { return .giveUp(outlook.reason(.noProgress)) }
        return .anotherRound
    }

    /// What stopping now would mean, for progress lines; `nil` before the first round.
    public static func prediction(
        history: [RoundStatistics], limits: MigrationLimits, fixedCost: Duration
    ) -> DowntimePrediction? {
        history.last.map {
            Outlook(history: history, last: $0, limits: limits, fixed: fixedCost, tuning: .init()).now
        }
    }
}

/// What the rounds so far say about now and about the next round.
private struct Outlook {
    let history: [RoundStatistics]
    let last: RoundStatistics
    let fixed: Duration
    let tuning: PreCopyPolicy.Tuning
    /// Bytes a second.
    let goodput: Double
    /// The downtime if the VM stopped now.
    let now: DowntimePrediction
    /// How long a further round would take.
    let nextRound: Duration
    /// The downtime after it.
    let next: DowntimePrediction
    /// Rounds since the residue last became noticeably smaller than ever before.
    let roundsWithoutProgress: Int
    let timeWithoutProgress: Duration
    let smallestResidue: Int

    init(
        history: [RoundStatistics], last: RoundStatistics, limits: MigrationLimits, fixed: Duration,
        tuning: PreCopyPolicy.Tuning
    ) {
        self.history = history
        self.last = last
        self.fixed = fixed
        self.tuning = tuning
        goodput = Self.goodput(history, limits, tuning)
        now = Self.prediction(pages: last.residuePages, goodput, fixed)
        nextRound = now.memory + tuning.roundOverhead
        // The dirty rate of the latest round, continued. A guest that rewrites a hot set makes this too hopeful for a
        // shorter round; then the next decision sees a residue that has not shrunk.
        let dirtied = last.dirtyRate / Double(pageByteCount) * nextRound.seconds
        let nextPages = last.pagesDirtied > 0 ? Int(min(dirtied, Double(last.pagesDirtied), 1e15).rounded(.up)) : 0
        next = Self.prediction(pages: nextPages, goodput, fixed)

        var smallest = Int.max
        var stalled = 0
        var stalledTime = Duration.zero
        for round in history {
            let isProgress = Double(round.residuePages) < Double(smallest) * (1 - tuning.worthwhileShare)
            let isFirst = smallest == .max
            stalled = isProgress || isFirst ? 0 : stalled + 1
            stalledTime = isProgress || isFirst ? .zero : stalledTime + round.duration
            smallest = min(smallest, max(0, round.residuePages))
        }
        roundsWithoutProgress = stalled
        timeWithoutProgress = stalledTime
        smallestResidue = smallest
    }

    /// Guest bytes a second, by the latest round that was long enough to tell, or else by the longest one; not more
    /// than the cap, which may have been lowered since.
    private static func goodput(
        _ history: [RoundStatistics], _ limits: MigrationLimits, _ tuning: PreCopyPolicy.Tuning
    ) -> Double {
        let telling = history.last { $0.payloadPages >= tuning.telltalePages }
        let measured = (telling ?? history.max { $0.payloadPages < $1.payloadPages })?.goodput
        // No page with a payload was ever sent: nothing is known, and nothing was needed. Assume a slow link.
        let known = measured ?? 100e6
        return max(1, limits.maxBandwidth.map { min(known, Double($0)) } ?? known)
    }

    private static func prediction(pages: Int, _ goodput: Double, _ fixed: Duration) -> DowntimePrediction {
        let bytes = Double(max(0, pages)) * Double(pageByteCount)
        return DowntimePrediction(memory: .clamped(seconds: bytes / goodput), fixed: fixed)
    }

    private var best: DowntimePrediction { Self.prediction(pages: smallestResidue, goodput, fixed) }

    /// Another round would make the downtime noticeably shorter.
    var isWorthwhile: Bool { isNoticeable(from: now.total, to: next.total) }

    private func isNoticeable(from longer: Duration, to shorter: Duration) -> Bool {
        let gain = longer - shorter
        return gain > tuning.worthwhileGain && gain > longer * tuning.worthwhileShare
    }

    /// The guest was much calmer a few rounds ago, and may be again.
    func mayCalmDown(_ policy: MigrationPolicy) -> Bool {
        guard policy != .boundedTime, roundsWithoutProgress <= tuning.calmPatience else { return false }
        return now.total > best.total * tuning.calmFactor && isNoticeable(from: now.total, to: best.total)
    }

    /// How much to hold the vCPUs back from now on; `nil` when that is not allowed, not due, or at its most already.
    func throttle(_ limits: MigrationLimits) -> Int? {
        let most = min(99, max(0, limits.maxThrottle))
        let patience = limits.policy == .boundedTime ? 1 : tuning.throttlePatience
        guard limits.policy != .noDisruption, last.throttle < most, !isWorthwhile || isStalled else { return nil }
        let since = history.reversed().prefix { $0.throttle == last.throttle }.count
        guard min(roundsWithoutProgress, since) >= patience else { return nil }
        // Enough for the dirty rate to fall to half of the goodput, so that each round halves the residue; a step of
        // 20 where that was not enough.
        let unthrottled = last.dirtyRate / (1 - Double(last.throttle) / 100)
        let needed = unthrottled > 0 ? (1 - goodput / 2 / unthrottled) * 100 : 0
        let wanted = max(Int(needed.rounded(.up)), last.throttle + 20)
        return min(most, wanted)
    }

    private var isStalled: Bool { roundsWithoutProgress > 0 }

    /// No progress for so long that none is to be expected.
    func isHopeless(_ limits: MigrationLimits) -> Bool {
        switch limits.policy {
        case .noDisruption:
            roundsWithoutProgress >= tuning.shortPatience && timeWithoutProgress >= tuning.shortTime
        case .minDowntime, .boundedTime:
            limits.maxTime == nil && roundsWithoutProgress >= tuning.giveUpPatience
                && timeWithoutProgress >= tuning.giveUpTime
        }
    }

    func reason(_ code: GiveUpReason.Code) -> GiveUpReason {
        GiveUpReason(
            code: code, best: best.total, now: now.total, dirtyRate: last.dirtyRate, goodput: goodput)
    }
}

extension GiveUpReason: CustomStringConvertible {
    /// One sentence, with what can be done.
    public var description: String {
        let rates =
            "the guest dirties \(Self.rate(dirtyRate)), \(Self.rate(goodput)) are moved, "
            + "and stopping it now would take \(Self.milliseconds(now)) (at best \(Self.milliseconds(best)))"
        return switch code {
        case .outOfTime: "the time limit is used up: \(rates); allow more downtime or more time"
        case .noProgress: "more rounds do not help: \(rates); allow more downtime"
        }
    }

    private static func rate(_ bytes: Double) -> String { "\(Int((bytes / 1e6).rounded())) MB/s" }
    private static func milliseconds(_ time: Duration) -> String { "\(Int((time.seconds * 1000).rounded())) ms" }
}
