/// The two drivers: they do what the machines ask, and watch the invariants while they do it.

import Migrate

extension World {
    // MARK: Source

    /// Feeds one event to the source and does at once what can be done at once.
    mutating func source(_ event: SourceHandOver.Event) -> String? {
        guard var machine = source else { return nil }
        let actions = machine.handle(event)
        source = machine
        for action in actions {
            if let violation = start(action) { return violation }
        }
        return nil
    }

    private mutating func start(_ action: SourceHandOver.Action) -> String? {
        switch action {
        case .pauseVM, .resumeVM, .sendLastPages, .releaseDisks, .lockDisks, .record, .freeVM:
            sourceQueue.append(action)
        case .send(let message):
            return say(message)
        case .startTimer(let timer, _):
            sourceTimers.start(timer)
        case .cancelTimer(let timer):
            sourceTimers.stop(timer)
        case .closeLink:
            wire?.isCut = true
            wire?.sourceEnd = false
            wire?.toSource = []
            detach()
        case .reconnect:
            sourceWantsLink = true
        case .note(let phase):
            sourceLedger = source?.real.ledger(phase, machine: "", peer: "")
        case .ended(let outcome):
            if outcome != .stayedUntold { sourceWantsLink = false }
            if outcome == .droppedHere { sourceDropped = true }
        case .servePages, .stopServing, .attemptFailed, .mayTryAgain, .reportDoubt, .doubtEnded, .object, .ignored:
            break
        }
        return nil
    }

    private mutating func say(_ message: HandOverMessage) -> String? {
        switch message.body {
        case .alive: return nil
        case .commit:
            if sourceLedger?.phase != .givenAway && !hasFreedSource {
                return "COMMIT is said before the ledger says so"
            }
            if sourceRuns { return "COMMIT is said while the VM runs at the source" }
            commitSaid = true
        case .void(let reason):
            if commitSaid, reason != .resolved { return "VOID is said after COMMIT" }
            voidSaid = message.attempt
        default: break
        }
        if let wire, wire.sourceEnd, !wire.isCut { self.wire?.toDestination.append(message) }
        return nil
    }

    private var hasFreedSource: Bool { source?.real.phase == .freed }

    /// Ends the source's oldest slow action.
    mutating func finishSourceAction(succeeds: Bool) -> String? {
        let action = sourceQueue.removeFirst()
        switch action {
        case .pauseVM:
            guard succeeds else { return source(.pauseFailed) }
            if sourceVM == .running { sourceVM = .paused }
            return source(.paused)
        case .resumeVM:
            guard sourceVM != .gone else { return "the source resumes a VM that is gone" }
            if sourceVM == .paused {
                if commitSaid, !sourceDecided { return "the source resumes after COMMIT" }
                if sourceCopyIsStale, !sourceDecided, !lies { return "the source resumes an old copy" }
                freshAttempt = nil
            }
            sourceVM = .running
            return nil
        case .sendLastPages(let attempt):
            guard succeeds else { return source(.lastPagesFailed(attempt)) }
            guard sourceVM == .paused else { return "the last pages are sent while the VM runs" }
            freshAttempt = attempt
            return source(.lastPagesSent(attempt, Self.digest(attempt)))
        case .releaseDisks:
            guard succeeds else { return source(.releaseFailed) }
            sourceHoldsDisks = false
            return source(.disksReleased)
        case .lockDisks:
            guard succeeds else { return source(.lockFailed) }
            sourceHoldsDisks = true
            return source(.disksLocked)
        case .record(let phase):
            guard succeeds else { return source(.recordFailed(phase)) }
            sourceLedger = source?.real.ledger(phase, machine: "", peer: "")
            return source(.recorded(phase))
        case .freeVM:
            if !sourceDropped {
                guard destinationRuns || destinationKilled else { return "the source frees the VM too early" }
                if !hasAllPages, source?.real.mode == .postCopy { return "the source frees pages still needed" }
            }
            sourceVM = .gone
            sourceHoldsDisks = false
            return nil
        default:
            return nil
        }
    }

    // MARK: Destination

    mutating func destination(_ event: DestinationHandOver.Event) -> String? {
        guard var machine = destination else { return nil }
        let actions = machine.handle(event)
        destination = machine
        for action in actions {
            if let violation = start(action) { return violation }
        }
        return nil
    }

    private mutating func start(_ action: DestinationHandOver.Action) -> String? {
        switch action {
        case .load, .lockDisks, .releaseDisks, .runVM, .pauseVM, .discardCopy, .record:
            destinationQueue.append(action)
        case .send(let message):
            if message.body == .alive { return nil }
            if message.body == .ready { readySaid = message.attempt }
            if message.body == .running, !destinationRuns, !destinationKilled { return "RUNNING is said too early" }
            if olderWire != nil {
                // The source has left that connection: nobody reads it.
            } else if let wire, wire.destinationEnd, !wire.isCut {
                self.wire?.toSource.append(message)
            }
        case .startTimer(let timer, _):
            destinationTimers.start(timer)
        case .cancelTimer(let timer):
            destinationTimers.stop(timer)
        case .closeLink:
            dropDestinationEnd()
        case .note(let phase):
            destinationLedger = destination?.real.ledger(phase, machine: "", peer: "")
        case .ended(let outcome):
            if outcome == .droppedHere { destinationDropped = true }
        case .cancelLoad, .reportDoubt, .doubtEnded, .stayStopped, .object, .ignored:
            break
        }
        return nil
    }

    mutating func dropDestinationEnd() {
        if olderWire != nil {
            olderWire = nil
        } else if wire?.destinationEnd == true {
            wire?.isCut = true
            wire?.destinationEnd = false
            wire?.toDestination = []
            detach()
        }
    }

    /// Ends the destination's oldest slow action.
    mutating func finishDestinationAction(succeeds: Bool) -> String? {
        let action = destinationQueue.removeFirst()
        switch action {
        case .load(let attempt, let mode):
            guard succeeds else { return destination(.loadFailed(attempt, .stateNotRestored)) }
            hasAllPages = mode == .preCopy
            destinationVM = .loaded(attempt)
            return destination(.loaded(attempt, Self.digest(attempt)))
        case .lockDisks:
            guard succeeds else { return destination(.lockFailed) }
            destinationHoldsDisks = true
            return destination(.disksLocked)
        case .releaseDisks:
            destinationHoldsDisks = false
            return nil
        case .runVM:
            guard succeeds else { return destination(.startFailed) }
            return run()
        case .pauseVM:
            if case .running(let attempt) = destinationVM { destinationVM = .paused(attempt) }
            destinationHoldsDisks = false
            return nil
        case .discardCopy:
            if case .loaded(let attempt) = destinationVM, readySaid == attempt,
                (voidSaid ?? AttemptNumber(0)) < attempt,
                !destinationDropped
            {
                return "the destination drops a copy that it answered READY for"
            }
            if destinationRuns { return "the destination drops a running VM" }
            destinationVM = .gone
            destinationHoldsDisks = false
            return nil
        case .record(let phase):
            guard succeeds else { return destination(.recordFailed(phase)) }
            destinationLedger = destination?.real.ledger(phase, machine: "", peer: "")
            return destination(.recorded(phase))
        default:
            return nil
        }
    }

    private mutating func run() -> String? {
        switch destinationVM {
        case .loaded(let attempt):
            if commitHeard != attempt, !destinationDecided { return "the destination runs without COMMIT" }
            if freshAttempt != attempt, !destinationDecided, !lies { return "the destination runs an old copy" }
            destinationVM = .running(attempt)
            sourceCopyIsStale = true
        case .paused(let attempt): destinationVM = .running(attempt)
        case .running: return "the destination starts the VM twice"
        case .none, .gone: return "the destination runs a VM that it does not have"
        }
        return destination(.started)
    }
}
