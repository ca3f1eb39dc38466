/// The destination's side of a hand-over, as a value: events in, actions out, no I/O (docs/hand-over.md).
///
/// The rule that it keeps, whatever happens: the VM runs here if and only if COMMIT for the current attempt was
/// heard, unless a person decides otherwise; and from READY on its copy is dropped only at the source's word.

public struct DestinationHandOver: Hashable, Sendable {
    /// Where the destination stands.
    public enum Phase: Hashable, Sendable {
        /// Pages arrive, or may arrive again after a void attempt. The copy is not complete.
        case receiving
        /// FINAL was heard: state is being loaded and the digest checked.
        case loading
        /// REFUSED was said.
        case refused
        /// READY was said. Nothing but COMMIT, VOID or a person leads out of here.
        case ready
        /// A person decided to run here; the ledger is being told first. `instead` is what a copy that was stopped
        /// before goes back to; `nil` for one that was ready.
        case deciding(instead: Stop?)
        /// The disks are being locked.
        case locking(Entitlement)
        /// The vCPUs are being started.
        case starting(Entitlement)
        case running(Entitlement)
        /// The source has freed its copy.
        case finished
        /// Stopped for good unless a person says otherwise; the copy is kept.
        case stopped(Stop)
        /// This side was restarted from its ledger: its copy died with the process before.
        case lost(hasRun: Bool)
        /// The copy was dropped; the session is over.
        case ended
    }

    /// By what right the VM runs here.
    public enum Entitlement: Hashable, Sendable {
        case commit
        case decision
    }

    /// Why the copy stands still.
    public enum Stop: Hashable, Sendable {
        /// The source was resolved to run.
        case voidedByDecision
        /// COMMIT was heard, and the VM could not be started.
        case startFailed
        /// It ran here by a wrong word, and the source runs it.
        case split
    }

    /// What can happen to the destination.
    public enum Event: Hashable, Sendable {
        /// A control connection that belongs to the session stands. The first one too. A new connection replaces an
        /// old one: `linkDown` first, and nothing of the old one is delivered afterwards.
        case linkUp
        case linkDown
        case message(HandOverMessage)
        case timer(HandOverTimer)
        /// A person, or a signal, wants the receiver to stop.
        case cancel
        case resolve(HandOverResolution)
        // How actions ended.
        case loaded(AttemptNumber, MemoryDigest)
        case loadFailed(AttemptNumber, RefusalReason)
        case disksLocked
        case lockFailed
        case started
        case startFailed
        /// Post-copy: every page is installed and checked.
        case memoryComplete
        case recorded(HandOverLedger.Phase)
        case recordFailed(HandOverLedger.Phase)
    }

    /// What the driver must do. Slow actions (those that are answered, `releaseDisks`, `pauseVM`, `discardCopy`) are
    /// done one after the other, in the order in which they were asked for, each to its end; each that is answered is
    /// answered once. The others are done at once.
    public enum Action: Hashable, Sendable {
        /// Wait for every lane's epoch marker, restore the state, compute the digest, open the disks. Answered by
        /// `loaded` or `loadFailed`; given up at `cancelLoad`.
        case load(AttemptNumber, HandOverMode)
        case cancelLoad
        /// Answered by `disksLocked` or `lockFailed`.
        case lockDisks
        case releaseDisks
        /// Answered by `started` or `startFailed`.
        case runVM
        /// Stop the vCPUs and unlock the disks.
        case pauseVM
        /// Forget the VM, and unlock its disks should they be locked.
        case discardCopy
        /// Write the ledger, durably. Answered by `recorded` or `recordFailed`.
        case record(HandOverLedger.Phase)
        /// Write the ledger when there is time; nothing depends on it.
        case note(HandOverLedger.Phase)
        case send(HandOverMessage)
        case startTimer(HandOverTimer, Duration)
        case cancelTimer(HandOverTimer)
        /// Close the connection; the machine has already taken it for gone.
        case closeLink(LinkFault)
        /// The VM stands still, and this side cannot go on by itself.
        case reportDoubt(HandOverDoubt)
        case doubtEnded
        /// The VM stays stopped; why is in `phase`.
        case stayStopped(Stop)
        case object(HandOverObjection)
        case ignored(HandOverMessage, IgnoredMessage)
        case ended(HandOverOutcome)
    }

    public let session: SessionIdentifier
    public let timeouts: HandOverTimeouts
    public internal(set) var phase: Phase
    /// The latest attempt that was heard of; 0 before the first.
    public internal(set) var attempt: AttemptNumber
    /// What the latest FINAL (or VOID) said.
    public internal(set) var digest = MemoryDigest.unknown
    /// How the latest FINAL wanted it.
    public internal(set) var mode = HandOverMode.preCopy
    public internal(set) var isLinked = false
    public internal(set) var doubt: HandOverDoubt?
    /// Answers that are still to come.
    var pending = PendingAnswers()
    /// Post-copy: every page is here.
    var isMemoryComplete = false

    /// The destination of a new session. Its first event is `linkUp`, once the negotiation is through.
    public init(session: SessionIdentifier, timeouts: HandOverTimeouts = .init()) {
        self.session = session
        self.timeouts = timeouts
        phase = .receiving
        attempt = AttemptNumber(0)
    }

    /// What a restarted tool can still say for a destination whose process died: that its copy is gone. `nil` when
    /// the ledger holds nothing that the source needs to hear.
    public init?(restoring ledger: HandOverLedger, timeouts: HandOverTimeouts = .init()) {
        guard ledger.role == .destination else { return nil }
        switch ledger.phase {
        case .ready: phase = .lost(hasRun: false)
        case .running, .resolvedHere: phase = .lost(hasRun: true)
        case .givenAway, .takenBack, .done, .void: return nil
        }
        session = ledger.session
        mode = ledger.mode
        self.timeouts = timeouts
        attempt = ledger.attempt
        digest = ledger.digest
    }

    /// Whether the VM may run here now.
    public var mayRunVM: Bool {
        switch phase {
        case .starting, .running, .finished: true
        default: false
        }
    }

    /// Whether a person may decide now (`resolve`): in a doubt that was reported, and for a copy that was stopped.
    public var mayBeResolved: Bool {
        if case .stopped = phase { true } else { doubt != nil }
    }

    /// One event in, the actions that it causes out.
    public mutating func handle(_ event: Event) -> [Action] {
        guard answered(event) else { return [] }
        let actions = effect(of: event)
        for action in actions {
            switch action {
            case .runVM: pending.starts &+= 1
            case .lockDisks: pending.locks &+= 1
            case .record: pending.records &+= 1
            default: break
            }
        }
        return actions
    }

    /// False for an answer to an action that was asked for once more since: only the last answer counts.
    private mutating func answered(_ event: Event) -> Bool {
        switch event {
        case .started, .startFailed: PendingAnswers.take(&pending.starts)
        case .disksLocked, .lockFailed: PendingAnswers.take(&pending.locks)
        case .recorded, .recordFailed: PendingAnswers.take(&pending.records)
        default: true
        }
    }

    private mutating func effect(of event: Event) -> [Action] {
        switch event {
        case .linkUp: linkUp()
        case .linkDown: linkDown()
        case .message(let message): receive(message)
        case .timer(let timer): fire(timer)
        case .cancel: cancel()
        case .resolve(let resolution): resolve(resolution)
        case .loaded, .loadFailed: loadStep(event)
        case .disksLocked, .lockFailed, .started, .startFailed: startStep(event)
        case .memoryComplete: memoryComplete()
        case .recorded(let written): recorded(written)
        case .recordFailed(let unwritten): recordFailed(unwritten)
        }
    }

    // MARK: The link

    private mutating func linkUp() -> [Action] {
        isLinked = true
        let actions: [Action] = [
            .startTimer(.silence, timeouts.silence), .startTimer(.heartbeat, timeouts.heartbeat),
        ]
        switch phase {
        case .receiving: return actions + [.cancelTimer(.abandon)]
        case .ready: return actions + endDoubt() + [.send(message(.ready))]
        case .running, .finished: return actions + endDoubt() + statement()
        case .lost(let hasRun): return actions + [.send(message(.lost(hasRun: hasRun)))]
        default: return actions
        }
    }

    private mutating func linkDown() -> [Action] {
        guard isLinked else { return [] }
        isLinked = false
        let actions: [Action] = [.cancelTimer(.silence), .cancelTimer(.heartbeat)]
        switch phase {
        case .receiving, .refused:
            phase = .receiving
            return actions + [.startTimer(.abandon, timeouts.abandon)]
        case .loading:
            // READY was not said, so COMMIT cannot come: this attempt is over.
            phase = .receiving
            return actions + [.cancelLoad, .startTimer(.abandon, timeouts.abandon)]
        case .ready:
            return actions + [.startTimer(.doubt, timeouts.doubt)]
        default:
            return actions
        }
    }

    private mutating func fire(_ timer: HandOverTimer) -> [Action] {
        switch timer {
        case .silence:
            return isLinked ? [.closeLink(.silent)] + linkDown() : []
        case .heartbeat:
            guard isLinked else { return [] }
            return [.send(message(.alive)), .startTimer(.heartbeat, timeouts.heartbeat)]
        case .doubt:
            return !isLinked && phase == .ready ? report(.readyAndSilent) : []
        case .abandon:
            guard !isLinked, phase == .receiving else { return [] }
            phase = .ended
            return [.discardCopy, .ended(.discarded)]
        case .retry:
            guard case .locking = phase else { return [] }
            return [.lockDisks]
        case .ready:
            return []
        }
    }

    // MARK: Doubt and words

    mutating func report(_ reason: HandOverDoubt) -> [Action] {
        guard doubt != reason else { return [] }
        doubt = reason
        return [.reportDoubt(reason)]
    }

    mutating func endDoubt() -> [Action] {
        defer { doubt = nil }
        return doubt == nil ? [.cancelTimer(.doubt)] : [.cancelTimer(.doubt), .doubtEnded]
    }

    func message(_ body: HandOverMessage.Body) -> HandOverMessage {
        HandOverMessage(session: session, attempt: attempt, digest: digest, body: body)
    }

    /// What a destination that runs the VM says when it is asked.
    func statement() -> [Action] {
        [.send(message(mode == .postCopy && isMemoryComplete ? .installed : .running))]
    }
}
