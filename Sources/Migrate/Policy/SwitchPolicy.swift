/// When pre-copy gives way to post-copy: a pure function of what the pre-copy policy says and of the rounds so far
/// (docs/policy.md).

import Units

/// Why pages follow the VM instead of going before it.
public enum SwitchReason: Hashable, Sendable {
    /// The migration was asked to be one.
    case wanted
    /// A person said so while it was under way.
    case forced
    /// The guest writes memory as fast as it is sent: more rounds do not bring the downtime down to the limit.
    case noProgress
    /// Another round would make the migration longer than moving memory twice.
    case tooLong
    /// The time limit leaves no room for more rounds.
    case outOfTime
}

/// What to do next, where post-copy is allowed.
public enum SwitchDecision: Hashable, Sendable {
    case preCopy(PreCopyDecision)
    /// Stop the VM, hand it over, and let the rest follow.
    case postCopy(SwitchReason)
}

public enum SwitchPolicy {
    /// Bytes sent, as a multiple of memory, after which rounds end. With what follows it is twice the memory at most.
    static let mostBeforeSwitch = 1.5

    /// - Parameters:
    ///   - preCopy: what `PreCopyPolicy` decided.
    ///   - isForced: a person wants it now.
    ///   - memoryPages: pages of the VM.
    public static func decide(
        mode: MigrationMode, preCopy: PreCopyDecision, history: [RoundStatistics], memoryPages: UInt64, isForced: Bool
    ) -> SwitchDecision {
        switch mode {
        case .preCopy: return .preCopy(preCopy)
        case .postCopy: return .postCopy(.wanted)
        case .hybrid: break
        }
        if isForced { return .postCopy(.forced) }
        switch preCopy {
        case .stopAndCopy: return .preCopy(preCopy)
        case .throttle: return .postCopy(.noProgress)
        case .giveUp(let reason): return .postCopy(reason.code == .outOfTime ? .outOfTime : .noProgress)
        case .anotherRound: break
        }
        // The first round sends what need not be sent in a hurry. After it, a round must leave noticeably less than the
        // one before, or the next one is for nothing.
        guard let last = history.last else { return .preCopy(preCopy) }
        if history.count > 1 {
            let before = history[history.count - 2]
            if Double(last.residuePages) > 0.9 * Double(before.residuePages) { return .postCopy(.noProgress) }
        }
        let sent = history.reduce(0.0) { $0 + Double($1.payloadPages) } + Double(max(0, last.residuePages))
        let moved = history.first.map { Double($0.payloadPages) } ?? 0
        let budget = max(min(moved, Double(memoryPages)), 1) * mostBeforeSwitch
        return sent > budget ? .postCopy(.tooLong) : .preCopy(preCopy)
    }
}

extension SwitchReason: CustomStringConvertible {
    /// For reports and the log.
    public var description: String {
        switch self {
        case .wanted: "post-copy was asked for"
        case .forced: "the switch was asked for"
        case .noProgress: "more rounds of pre-copy would not have met the limits"
        case .tooLong: "more rounds of pre-copy would have sent memory twice"
        case .outOfTime: "the time limit left no room for more rounds of pre-copy"
        }
    }
}
