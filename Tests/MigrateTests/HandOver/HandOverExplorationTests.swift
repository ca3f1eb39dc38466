import Migrate
import Testing

/// Every interleaving of the two real state machines over a link that loses, delays, duplicates, cuts and
/// reconnects, with retries, cancels, failing actions, kills, restarts and a person's decisions. What is checked in
/// each state stands in `HandOverWorld+Drivers.swift` and `HandOverWorld+Steps.swift`; what must be reachable from
/// each state, in `HandOverExplorer.swift`.
@Suite("Hand-over, all interleavings", .serialized)
struct HandOverExplorationTests {
    #if DEBUG
        /// An unoptimised explorer is ten times slower, so a debug build leaves out what multiplies the states most.
        static let isThorough = false
    #else
        static let isThorough = true
    #endif

    static func describe(_ result: Exploration) -> String {
        guard let (violation, trace) = result.counterexample else { return "nothing broken" }
        return ([violation + ", by"] + trace.map { "    \($0)" }).joined(separator: "\n")
    }

    @discardableResult
    static func explore(_ name: String, _ scope: Scope) -> Exploration {
        var result = Exploration()
        let time = ContinuousClock().measure { result = HandOverExplorer(scope: scope).explore() }
        print(
            "hand-over, \(name): \(result.states.count) states, \(result.transitions) steps,",
            "depth \(result.depth), \(time)")
        #expect(result.counterexample == nil, "\(name): \(describe(result))")
        return result
    }

    @Test("One attempt, everything that can go wrong", arguments: HandOverMode.allCases)
    func oneAttempt(mode: HandOverMode) {
        let result = Self.explore(
            "one attempt, \(mode)",
            Scope(mode: mode, attempts: 1, failures: Self.isThorough, duplicates: Self.isThorough))
        // The exploration is worth something only if it gets everywhere.
        let sources = Set(result.states.compactMap { $0.source.map { Self.name($0.real.phase) } })
        let destinations = Set(result.states.compactMap { $0.destination.map { Self.name($0.real.phase) } })
        var expectedSources: Set = [
            "copying", "pausing", "sending", "awaitingReady", "releasing", "recording", "withdrawing", "retaking",
            "committed", "deciding", "resolvedHere", "freed", "ended",
        ]
        if mode == .postCopy { expectedSources.insert("serving") }
        var expectedDestinations: Set = [
            "receiving", "loading", "ready", "deciding", "locking", "starting", "running", "finished", "stopped",
            "lost", "ended",
        ]
        if Self.isThorough { expectedDestinations.insert("refused") }
        #expect(sources == expectedSources)
        #expect(destinations == expectedDestinations)
    }

    @Test(.enabled(if: !isThorough, "a release build explores more than this"))
    func twoAttemptsNobodyKilled() {
        Self.explore(
            "two attempts, nobody killed",
            Scope(attempts: 2, kills: false, restarts: false, failures: false, duplicates: false, resolves: false))
    }

    /// The whole world: some 25 s and 1.3 GB.
    @Test(.enabled(if: isThorough, "a release build explores this: swift test -c release"))
    func twoAttemptsEverything() {
        Self.explore("two attempts, everything", Scope(attempts: 2))
    }

    /// Each attempt in the mode that it likes.
    @Test(.enabled(if: isThorough, "a release build explores this: swift test -c release"))
    func twoAttemptsHybrid() {
        Self.explore(
            "two attempts, hybrid",
            Scope(attempts: 2, isHybrid: true, restarts: false, failures: false, duplicates: false))
    }

    /// A person says that the other side is dead, and it is not. Two may run then, but not for longer than until they
    /// hear of each other.
    @Test(.enabled(if: isThorough, "a release build explores this: swift test -c release"))
    func aWrongWord() {
        let result = Self.explore(
            "a wrong word",
            Scope(attempts: 1, kills: false, restarts: false, failures: false, duplicates: false, lies: true))
        let sources = Set(result.states.compactMap { $0.source.map { Self.name($0.real.phase) } })
        #expect(sources.contains("split"))
        #expect(result.states.contains { $0.runningCount == 2 })
    }

    /// Each planted bug is found, so the exploration looks at what it should look at.
    @Test("A planted bug is found", arguments: HandOverFault.allCases)
    func plantedBug(fault: HandOverFault) {
        let result = HandOverExplorer(scope: fault.scope).explore()
        let violation = result.counterexample?.violation
        print("hand-over, planted \(fault): \(violation ?? "MISSED") (\(result.states.count) states)")
        #expect(violation == fault.violation)
    }

    /// The doubt timer must outlast the peer's silence timer: else COMMIT may still lie unread at a destination that
    /// a person rightly calls stopped.
    @Test func decidingTooEarly() {
        let scope = Scope(
            attempts: 1, kills: false, restarts: false, failures: false, duplicates: false,
            doubtOutlastsSilence: false)
        let result = HandOverExplorer(scope: scope).explore()
        #expect(result.counterexample?.violation == "both sides hold the disks")
        let hasty = HandOverTimeouts(silence: .seconds(10), doubt: .seconds(1))
        #expect(hasty.doubt >= hasty.silence * 2)
    }

    /// A phase without what it carries.
    private static func name(_ phase: some Any) -> String {
        let text = "\(phase)"
        return text.firstIndex(of: "(").map { String(text[..<$0]) } ?? text
    }
}

extension HandOverFault {
    /// The smallest world in which the bug shows.
    var scope: Scope {
        var scope = Scope(
            attempts: 1, kills: false, restarts: false, failures: false, duplicates: false, resolves: false)
        switch self {
        case .resumesWhenInDoubt: scope.resolves = true
        case .resumesWithoutTakingTheRecordBack:
            scope.kills = true
            scope.restarts = true
        case .retriesWithoutAcknowledgement, .believesOldAttempts, .obeysOldAttempts: scope.attempts = 2
        case .runsAgainAtRepeatedCommit: scope.duplicates = true
        default: break
        }
        scope.fault = self
        return scope
    }

    /// What it breaks.
    var violation: String {
        switch self {
        case .resumesWhenInDoubt, .resumesWhenLinkBreaksAfterCommit, .cancelsAfterCommit:
            "the source resumes after COMMIT"
        case .freesAtCommit: "the source frees the VM too early"
        case .commitsWithoutRecord: "COMMIT is said before the ledger says so"
        case .resumesWithoutTakingTheRecordBack: "the destination runs an old copy"
        case .believesOldAttempts: "an old voided takes effect at the source"
        case .doesNotRepeatVoid, .doesNotRepeatCommit, .retriesWithoutAcknowledgement, .ignoresVoid,
            .doesNotRepeatRunning:
            "both sides live and do not come to an end"
        case .saysVoidAfterCommit: "VOID is said after COMMIT"
        case .runsAtReady: "both sides hold the disks"
        case .runsWhenLinkBreaks: "the destination runs without COMMIT"
        case .runsAgainAtRepeatedCommit: "the destination starts the VM twice"
        case .dropsReadyCopyWhenLinkBreaks, .cancelsAfterReady:
            "the destination drops a copy that it answered READY for"
        case .obeysOldAttempts: "an old commit takes effect at the destination"
        }
    }
}
