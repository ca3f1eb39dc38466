/// The source's side of a hand-over, as a value: events in, actions out, no I/O (docs/hand-over.md has the diagram).
///
/// The rule that it keeps, whatever happens: the VM may resume here if and only if COMMIT has not been said, unless
/// a person decides otherwise; and it is freed here only after the destination has said that it runs there.

public struct SourceHandOver: Hashable, Sendable {
    /// Where the source stands.
    public enum Phase: Hashable, Sendable {
        /// The VM runs here. Rounds of pre-copy happen in this phase.
        case copying
        case pausing
        /// The last pages, the state and the digest are being sent.
        case sending
        /// FINAL was said.
        case awaitingReady
        /// READY was heard; the disks are being released.
        case releasing
        /// The ledger is being told that the VM was given away; `withdraw` holds why it will be taken back instead.
        case recording(withdraw: AttemptFailure?)
        /// The ledger is being told that the VM was taken back: COMMIT was not said.
        case withdrawing(AttemptFailure)
        /// The disks are being locked again, to run here: after a failed attempt, or by a person's decision.
        case retaking(Retake)
        /// COMMIT was said. Nothing but RUNNING or a person leads out of here.
        case committed
        /// Post-copy: the VM runs there and its pages are served from here.
        case serving
        /// A person decided to run here; the ledger is being told first.
        case deciding(Resolved)
        /// The VM runs here by a person's decision.
        case resolvedHere
        /// The VM stands still here after two sides were found running by a wrong word.
        case split
        /// The destination runs the VM, and this copy is freed.
        case freed
        /// The session is over. The VM runs here (unless this side was restarted from its ledger).
        case ended
    }

    /// What the disks are locked again for.
    public enum Retake: Hashable, Sendable {
        case afterFailure
        case byDecision(Resolved)
    }

    /// The phase that a person's decision left, and to which it returns when it cannot be recorded.
    public enum Resolved: Hashable, Sendable {
        case fromCommitted
        case fromServing
        case fromSplit
    }

    /// What can happen to the source.
    public enum Event: Hashable, Sendable {
        /// A control connection that belongs to the session stands. The first one too.
        case linkUp
        /// The control connection is gone: closed, reset, or a send failed. What it still held unread is dropped.
        case linkDown
        case message(HandOverMessage)
        case timer(HandOverTimer)
        /// The policy says: now. READY must come within the budget, counted from here.
        case stopAndCopy(readyWithin: Duration)
        /// The next attempt hands over in this way. Between attempts only.
        case choose(HandOverMode)
        /// A person, or a signal, wants the VM to stay.
        case cancel
        case resolve(HandOverResolution)
        // How actions ended.
        case paused
        case pauseFailed
        case lastPagesSent(AttemptNumber, MemoryDigest)
        case lastPagesFailed(AttemptNumber)
        case disksReleased
        case releaseFailed
        case disksLocked
        case lockFailed
        case recorded(HandOverLedger.Phase)
        case recordFailed(HandOverLedger.Phase)
    }

    /// What the driver must do. Slow actions (those that are answered, `resumeVM` and `freeVM`) are done one after the
    /// other, in the order in which they were asked for, each to its end; each that is answered is answered once.
    /// The others are done at once.
    public enum Action: Hashable, Sendable {
        /// Answered by `paused` or `pauseFailed`.
        case pauseVM
        case resumeVM
        /// Send the last pages, the state, and the epoch markers. Answered by `lastPagesSent` or `lastPagesFailed`;
        /// given up when `attemptFailed` for the same attempt follows.
        case sendLastPages(AttemptNumber)
        /// Post-copy: answer requests for pages from now on.
        case servePages
        case stopServing
        /// Flush and unlock the disks. Answered by `disksReleased` or `releaseFailed`.
        case releaseDisks
        /// Answered by `disksLocked` or `lockFailed`.
        case lockDisks
        /// Write the ledger, durably. Answered by `recorded` or `recordFailed`.
        case record(HandOverLedger.Phase)
        /// Write the ledger when there is time; nothing depends on it.
        case note(HandOverLedger.Phase)
        case send(HandOverMessage)
        case startTimer(HandOverTimer, Duration)
        case cancelTimer(HandOverTimer)
        /// Close the connection; the machine has already taken it for gone.
        case closeLink(LinkFault)
        /// Keep dialling the destination, with back-off, until `linkUp` or `ended` (after `stayedUntold` and
        /// `resolvedHere` for as long as the VM lives: the destination still has to hear it).
        case reconnect
        case attemptFailed(AttemptNumber, AttemptFailure)
        /// The destination has understood VOID: rounds may go on, and another `stopAndCopy` may come.
        case mayTryAgain
        case freeVM
        /// The VM stands still, and this side cannot go on by itself.
        case reportDoubt(HandOverDoubt)
        /// The doubt is over.
        case doubtEnded
        /// A wish was not granted.
        case object(HandOverObjection)
        case ignored(HandOverMessage, IgnoredMessage)
        case ended(HandOverOutcome)
    }

    public let session: SessionIdentifier
    /// How the next attempt, or the one under way, hands over.
    public internal(set) var mode: HandOverMode
    public let timeouts: HandOverTimeouts
    public internal(set) var phase: Phase
    /// The latest attempt; 0 before the first.
    public internal(set) var attempt: AttemptNumber
    /// What the latest FINAL said.
    public internal(set) var digest = MemoryDigest.unknown
    public internal(set) var isLinked: Bool
    /// A VOID that the destination has not acknowledged. It is said again on each new connection.
    public internal(set) var pendingVoid: VoidReason?
    /// Why this side stands still, once that was reported. Only then may a person decide.
    public internal(set) var doubt: HandOverDoubt?
    /// False when this value was made from the ledger of a process that died: there is no VM here any more.
    public let hasCopy: Bool

    /// Answers that are still to come.
    var pending = PendingAnswers()
    /// FINAL of the latest attempt was said and VOID is not acknowledged: a destination may stand there, ready.
    var mayBeWaitedFor = false

    /// The source of a new session. Its first event is `linkUp`, once the negotiation is through.
    public init(session: SessionIdentifier, mode: HandOverMode, timeouts: HandOverTimeouts = .init()) {
        self.session = session
        self.mode = mode
        self.timeouts = timeouts
        phase = .copying
        attempt = AttemptNumber(0)
        isLinked = false
        hasCopy = true
    }

    /// What a restarted tool can still say for a source whose process died. It has no VM; it can only repeat what
    /// was decided. `nil` when the ledger holds nothing that the destination needs to hear.
    public init?(restoring ledger: HandOverLedger, timeouts: HandOverTimeouts = .init()) {
        guard ledger.role == .source else { return nil }
        switch ledger.phase {
        case .givenAway:
            // The copy here died with its process, and it was given away: saying COMMIT again cannot make two.
            phase = .committed
            doubt = .committedAndSilent
        case .resolvedHere:
            phase = .ended
            pendingVoid = .resolved
        case .ready, .running, .takenBack, .done, .void: return nil
        }
        session = ledger.session
        mode = ledger.mode
        self.timeouts = timeouts
        attempt = ledger.attempt
        digest = ledger.digest
        isLinked = false
        hasCopy = false
    }

    /// Whether the VM may run here now. Everything else follows from the phase.
    public var mayRunVM: Bool {
        switch phase {
        case .copying, .pausing, .resolvedHere, .ended: hasCopy
        default: false
        }
    }

    /// Whether a person may decide now (`resolve`): in a doubt that was reported.
    public var mayBeResolved: Bool {
        switch phase {
        case .committed, .serving, .split: doubt != nil
        default: false
        }
    }

    /// One event in, the actions that it causes out.
    public mutating func handle(_ event: Event) -> [Action] {
        guard answered(event) else { return [] }
        let actions = effect(of: event)
        for action in actions {
            switch action {
            case .pauseVM: pending.pauses &+= 1
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
        case .paused, .pauseFailed: PendingAnswers.take(&pending.pauses)
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
        case .stopAndCopy(let budget): stopAndCopy(readyWithin: budget)
        case .choose(let mode): choose(mode)
        case .cancel: cancel()
        case .resolve(let resolution): resolve(resolution)
        case .paused, .pauseFailed, .lastPagesSent, .lastPagesFailed: attemptStep(event)
        case .disksReleased, .releaseFailed, .disksLocked, .lockFailed: diskStep(event)
        case .recorded(let written): recorded(written)
        case .recordFailed(let unwritten): recordFailed(unwritten)
        }
    }

    // MARK: The link

    private mutating func linkUp() -> [Action] {
        isLinked = true
        var actions: [Action] = [
            .startTimer(.silence, timeouts.silence), .startTimer(.heartbeat, timeouts.heartbeat),
        ]
        if let pendingVoid, !isRetaking {
            actions += [.cancelTimer(.abandon), .send(message(.void(pendingVoid)))]
        } else if phase == .committed || phase == .serving || phase == .freed {
            // Also where it was heard before: the answer says how far the destination is.
            actions += endDoubt() + [.send(message(.commit))]
        }
        return actions
    }

    mutating func linkDown() -> [Action] {
        guard isLinked else { return [] }
        isLinked = false
        let actions: [Action] = [.cancelTimer(.silence), .cancelTimer(.heartbeat)]
        switch phase {
        case .copying where pendingVoid != nil && !mayBeWaitedFor:
            // The destination never heard FINAL of this attempt: it owes nothing and is owed nothing.
            let isOver = pendingVoid != .retry
            pendingVoid = nil
            if isOver { phase = .ended }
            return actions + (isOver ? [.ended(.stayed)] : [])
        case .copying where pendingVoid != nil, .retaking(.afterFailure):
            return actions + [.startTimer(.abandon, timeouts.abandon), .reconnect]
        case .copying:
            // No attempt is under way, so the destination cannot be waiting for an answer. The driver decides
            // whether it dials again or cancels.
            return actions
        case .pausing, .sending:
            // FINAL was not said: nothing needs to be told, and the next connection starts clean.
            let failed = fail(.linkLost)
            pendingVoid = nil
            return actions + failed
        case .awaitingReady, .releasing, .recording(nil):
            return actions + fail(.linkLost) + [.startTimer(.abandon, timeouts.abandon), .reconnect]
        case .recording, .withdrawing:
            return actions + [.startTimer(.abandon, timeouts.abandon), .reconnect]
        case .committed, .serving:
            return actions + [.startTimer(.doubt, timeouts.doubt), .reconnect]
        case .deciding, .retaking(.byDecision), .resolvedHere, .split:
            return actions + [.reconnect]
        case .ended where pendingVoid != nil:
            return actions + [.reconnect]
        case .freed, .ended:
            return actions
        }
    }

    private mutating func fire(_ timer: HandOverTimer) -> [Action] {
        switch timer {
        case .ready:
            switch phase {
            case .pausing, .sending, .awaitingReady: return fail(.readyDeadline)
            default: return []
            }
        case .silence:
            return isLinked ? [.closeLink(.silent)] + linkDown() : []
        case .heartbeat:
            guard isLinked else { return [] }
            return [.send(message(.alive)), .startTimer(.heartbeat, timeouts.heartbeat)]
        case .doubt:
            guard !isLinked, doubt == nil, phase == .committed || phase == .serving else { return [] }
            return report(.committedAndSilent)
        case .abandon:
            guard !isLinked, pendingVoid != nil, phase == .copying else { return [] }
            // The migration is over and the VM runs here. A destination that said READY and lives stays stopped, in
            // doubt, so it is still told should it ever be reached.
            pendingVoid = .final
            phase = .ended
            return [.ended(.stayedUntold)]
        case .retry:
            guard case .retaking = phase else { return [] }
            return [.lockDisks]
        }
    }

    private var isRetaking: Bool {
        if case .retaking = phase { true } else { false }
    }

    // MARK: Doubt

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
}
