/// Everything that a hand-over consists of, as one hashable value: both real state machines, what their drivers have
/// under way, the wire between them, both VMs, both ledgers. `HandOverExplorer` walks from value to value.

import Migrate

/// One control connection. TCP keeps the order within it; what is lost is lost by a cut.
struct Wire: Hashable {
    var toDestination: [HandOverMessage] = []
    var toSource: [HandOverMessage] = []
    /// Nothing that is sent from now on arrives. What was sent before may still be read, up to any point.
    var isCut = false
    var sourceEnd = true
    var destinationEnd = false
}

enum SourceVM: UInt8 { case running, paused, gone }

enum DestinationVM: Hashable {
    /// No complete copy.
    case none
    case loaded(AttemptNumber)
    case running(AttemptNumber)
    /// Ran here by a decision and was paused again.
    case paused(AttemptNumber)
    case gone
}

/// What the exploration may do.
struct Scope: Sendable {
    var mode = HandOverMode.preCopy
    var attempts: UInt32 = 2
    /// Between attempts the mode may change.
    var isHybrid = false
    var kills = true
    var restarts = true
    var failures = true
    var duplicates = true
    var resolves = true
    /// The word that the other side is dead may be wrong.
    var lies = false
    /// The doubt timer outlasts the peer's silence timer, as `HandOverTimeouts` promises.
    var doubtOutlastsSilence = true
    var fault: HandOverFault?
}

/// One step of the world; its description is a line of a counterexample.
enum Step: Hashable {
    case sourceOperation(SourceHandOver.Action, succeeds: Bool)
    case destinationOperation(DestinationHandOver.Action, succeeds: Bool)
    case toDestination(HandOverMessage)
    case toSource(HandOverMessage)
    case duplicateToDestination
    case duplicateToSource
    case cut
    case sourceNotices
    case destinationNotices
    case sourceHangsUp
    case dial
    case accept
    case sourceTimer(HandOverTimer)
    case destinationTimer(HandOverTimer)
    case stopAndCopy
    case choose(HandOverMode)
    case cancelAtSource
    case cancelAtDestination
    case memoryComplete
    case resolveAtSource(HandOverResolution)
    case resolveAtDestination(HandOverResolution)
    case killSource
    case killDestination
    case restartSource
    case restartDestination

    /// Steps that happen by themselves sooner or later, when nobody interferes and nothing breaks any more.
    var isProgress: Bool {
        switch self {
        case .sourceOperation(_, let succeeds), .destinationOperation(_, let succeeds): succeeds
        case .toDestination, .toSource, .sourceHangsUp, .sourceNotices, .destinationNotices, .dial, .accept,
            .memoryComplete:
            true
        case .sourceTimer(let timer), .destinationTimer(let timer): timer == .retry
        default: false
        }
    }

    /// Progress, and a person who looks after doubts.
    var isProgressWithHelp: Bool {
        switch self {
        case .sourceTimer(.doubt), .destinationTimer(.doubt), .resolveAtSource, .resolveAtDestination: true
        default: isProgress
        }
    }
}

struct World: Hashable {
    static let session = SessionIdentifier(high: 7, low: 9)

    /// `nil` once its process is killed.
    var source: FaultySource?
    var destination: FaultyDestination?
    /// Slow actions under way or waiting, in order.
    var sourceQueue: [SourceHandOver.Action] = []
    var destinationQueue: [DestinationHandOver.Action] = []
    var sourceTimers = TimerSet()
    var destinationTimers = TimerSet()
    /// The connection that the source made last, and an older one that the destination still reads.
    var wire: Wire?
    var olderWire: Wire?
    var sourceWantsLink = true

    var sourceVM = SourceVM.running
    var destinationVM = DestinationVM.none
    var sourceHoldsDisks = true
    var destinationHoldsDisks = false
    var hasAllPages = false
    var sourceLedger: HandOverLedger?
    var destinationLedger: HandOverLedger?

    // What the invariants remember.
    /// The attempt whose copy is what the VM is now; `nil` while it runs at the source.
    var freshAttempt: AttemptNumber?
    /// The VM has run at the destination: the copy at the source is of the past.
    var sourceCopyIsStale = false
    /// COMMIT was said for the latest attempt.
    var commitSaid = false
    var voidSaid: AttemptNumber?
    var readySaid: AttemptNumber?
    var commitHeard: AttemptNumber?
    var sourceDecided = false
    var destinationDecided = false
    var sourceDropped = false
    var destinationDropped = false
    var sourceKilled = false
    var destinationKilled = false

    /// The word that the other side is dead may have been wrong: then what it leads to is not judged step by step.
    let lies: Bool

    init(_ scope: Scope) {
        lies = scope.lies
        source = FaultySource(SourceHandOver(session: Self.session, mode: scope.mode), fault: scope.fault)
        destination = FaultyDestination(DestinationHandOver(session: Self.session), fault: scope.fault)
    }

    static func digest(_ attempt: AttemptNumber) -> MemoryDigest { MemoryDigest(UInt64(attempt.rawValue) + 0xd0) }

    var sourceRuns: Bool { sourceVM == .running }
    var destinationRuns: Bool { if case .running = destinationVM { true } else { false } }
    var runningCount: Int { (sourceRuns ? 1 : 0) + (destinationRuns ? 1 : 0) }
    var destinationIsAttached: Bool { wire?.destinationEnd == true || olderWire != nil }
    var sourceIsAttached: Bool { wire?.sourceEnd == true }

    /// Nothing is under way, and nobody waits for anybody.
    var isSettled: Bool {
        guard let source = source?.real, let destination = destination?.real else { return false }
        let sourceRests: Bool
        switch source.phase {
        case .copying, .ended, .resolvedHere: sourceRests = source.pendingVoid == nil
        case .freed: sourceRests = true
        default: sourceRests = false
        }
        switch destination.phase {
        case .receiving, .finished, .ended, .stopped: return sourceRests
        case .running: return sourceRests && source.phase == .freed
        default: return false
        }
    }

    mutating func detach() {
        if let current = wire, !current.sourceEnd, !current.destinationEnd { wire = nil }
    }
}

/// The running timers of one side.
struct TimerSet: Hashable {
    private var bits: UInt8 = 0

    private static func bit(_ timer: HandOverTimer) -> UInt8 {
        switch timer {
        case .ready: 1
        case .silence: 2
        case .heartbeat: 4
        case .doubt: 8
        case .abandon: 16
        case .retry: 32
        }
    }

    func contains(_ timer: HandOverTimer) -> Bool { bits & Self.bit(timer) != 0 }
    mutating func start(_ timer: HandOverTimer) { bits |= Self.bit(timer) }
    mutating func stop(_ timer: HandOverTimer) { bits &= ~Self.bit(timer) }
}
