/// Every step that can happen next, whoever takes it.

import Migrate

extension World {
    /// What must hold in every state.
    func violation(_ scope: Scope) -> String? {
        if runningCount > 1, !scope.lies { return "both sides run the VM" }
        if sourceRuns, !sourceHoldsDisks { return "the source runs without its disks" }
        if destinationRuns, !destinationHoldsDisks { return "the destination runs without its disks" }
        if sourceHoldsDisks, destinationHoldsDisks, !scope.lies { return "both sides hold the disks" }
        if let source = source?.real, sourceRuns, !source.mayRunVM, sourceQueue.isEmpty {
            return "the source runs and its machine does not know"
        }
        if let destination = destination?.real, destinationRuns, !destination.mayRunVM, destinationQueue.isEmpty {
            return "the destination runs and its machine does not know"
        }
        return nil
    }

    func steps(_ scope: Scope) -> [Step] {
        var steps: [Step] = []
        addOperations(&steps, scope)
        addLinkSteps(&steps, scope)
        addTimers(&steps, scope)
        addWishes(&steps, scope)
        addKills(&steps, scope)
        return steps
    }

    private func addOperations(_ steps: inout [Step], _ scope: Scope) {
        // Locks do not fence hosts from each other: `lockDisks` can always succeed. That both sides never hold them is
        // for the protocol to see to.
        if let action = sourceQueue.first {
            steps.append(.sourceOperation(action, succeeds: true))
            switch action {
            case .pauseVM, .sendLastPages, .releaseDisks, .lockDisks, .record:
                if scope.failures { steps.append(.sourceOperation(action, succeeds: false)) }
            default: break
            }
        }
        if let action = destinationQueue.first {
            steps.append(.destinationOperation(action, succeeds: true))
            switch action {
            case .load, .lockDisks, .record, .runVM:
                if scope.failures { steps.append(.destinationOperation(action, succeeds: false)) }
            default: break
            }
        }
    }

    private func addLinkSteps(_ steps: inout [Step], _ scope: Scope) {
        let inbox = olderWire?.toDestination ?? (wire?.destinationEnd == true ? wire?.toDestination : nil)
        if let message = inbox?.first {
            steps.append(.toDestination(message))
            // A repeated message may be answered, so the other direction bounds how often it is repeated.
            if scope.duplicates, inbox?.count == 1, (wire?.toSource.count ?? 0) < 2 {
                steps.append(.duplicateToDestination)
            }
        }
        if olderWire != nil { steps.append(.destinationNotices) }
        if let wire {
            if wire.sourceEnd, let message = wire.toSource.first {
                steps.append(.toSource(message))
                if scope.duplicates, wire.toSource.count == 1, wire.toDestination.count < 2 {
                    steps.append(.duplicateToSource)
                }
            }
            if !wire.isCut { steps.append(.cut) }
            if wire.sourceEnd, hasSourceFinished { steps.append(.sourceHangsUp) }
            if wire.isCut, wire.sourceEnd { steps.append(.sourceNotices) }
            if wire.isCut, wire.destinationEnd, olderWire == nil { steps.append(.destinationNotices) }
            if !wire.isCut, !wire.destinationEnd, destination != nil { steps.append(.accept) }
        }
        if let source = source?.real, !sourceIsAttached, destination != nil,
            sourceWantsLink || source.phase == .copying
        {
            steps.append(.dial)
        }
    }

    private func addTimers(_ steps: inout [Step], _ scope: Scope) {
        for timer in HandOverTimer.allCases where timer != .heartbeat {
            let isHeldBack = scope.doubtOutlastsSilence && timer == .doubt
            if source != nil, sourceTimers.contains(timer), !(isHeldBack && destinationIsAttached) {
                steps.append(.sourceTimer(timer))
            }
            if destination != nil, destinationTimers.contains(timer), !(isHeldBack && sourceIsAttached) {
                steps.append(.destinationTimer(timer))
            }
        }
    }

    private func addWishes(_ steps: inout [Step], _ scope: Scope) {
        if let source = source?.real {
            if source.phase == .copying, source.isLinked, source.pendingVoid == nil,
                source.attempt.rawValue < scope.attempts
            {
                steps.append(.stopAndCopy)
                if scope.isHybrid { steps.append(.choose(source.mode == .preCopy ? .postCopy : .preCopy)) }
            }
            if source.phase != .ended, source.phase != .freed { steps.append(.cancelAtSource) }
            // A person may be quicker than the disks, but not without bound.
            if scope.resolves, source.mayBeResolved, sourceQueue.count < 3 {
                if scope.lies || destinationWillNotRun {
                    steps.append(.resolveAtSource(.runHere(otherSideIsDead: true)))
                }
                if destinationRuns { steps.append(.resolveAtSource(.dropHere(copyMayBeLost: true))) }
            }
        }
        if let destination = destination?.real {
            if destination.phase != .ended { steps.append(.cancelAtDestination) }
            if destinationRuns, !hasAllPages { steps.append(.memoryComplete) }
            if scope.resolves, destination.mayBeResolved, destinationQueue.count < 3 {
                if scope.lies || sourceWillNotRun {
                    steps.append(.resolveAtDestination(.runHere(otherSideIsDead: true)))
                }
                if sourceRuns { steps.append(.resolveAtDestination(.dropHere(copyMayBeLost: true))) }
            }
        }
    }

    private func addKills(_ steps: inout [Step], _ scope: Scope) {
        if scope.kills {
            if source != nil, !sourceKilled { steps.append(.killSource) }
            if destination != nil, !destinationKilled { steps.append(.killDestination) }
        }
        if scope.restarts {
            if source == nil, let ledger = sourceLedger, SourceHandOver(restoring: ledger) != nil {
                steps.append(.restartSource)
            }
            if destination == nil, let ledger = destinationLedger, DestinationHandOver(restoring: ledger) != nil {
                steps.append(.restartDestination)
            }
        }
    }

    /// The source has nothing left to say.
    private var hasSourceFinished: Bool {
        guard let source = source?.real, source.pendingVoid == nil else { return false }
        return source.phase == .freed || source.phase == .ended || source.phase == .resolvedHere
    }

    /// The word "the destination is dead" is true: it does not run the VM and nothing makes it run it.
    private var destinationWillNotRun: Bool {
        guard let destination = destination?.real else { return true }
        guard destinationQueue.isEmpty else { return false }
        if destinationRuns { return false }
        switch destination.phase {
        case .deciding, .locking, .starting, .running, .finished: return false
        default: return true
        }
    }

    /// The word "the source is dead" is true: it was killed, or it stands still for good because it said COMMIT.
    private var sourceWillNotRun: Bool {
        guard let source = source?.real else { return true }
        if sourceRuns || !sourceQueue.isEmpty { return false }
        return source.phase == .committed || source.phase == .freed || !source.hasCopy
    }

    // MARK: Taking a step

    /// Takes one step; returns what it broke.
    mutating func take(_ step: Step) -> String? {
        switch step {
        case .sourceOperation(_, let succeeds): return finishSourceAction(succeeds: succeeds)
        case .destinationOperation(_, let succeeds): return finishDestinationAction(succeeds: succeeds)
        case .toDestination(let message):
            if olderWire != nil {
                olderWire?.toDestination.removeFirst()
            } else {
                wire?.toDestination.removeFirst()
            }
            if message.body == .commit { commitHeard = message.attempt }
            return destination(.message(message))
        case .toSource(let message):
            wire?.toSource.removeFirst()
            return source(.message(message))
        case .duplicateToDestination:
            if let message = olderWire?.toDestination.first {
                olderWire?.toDestination.append(message)
            } else if let message = wire?.toDestination.first {
                wire?.toDestination.append(message)
            }
        case .duplicateToSource:
            if let message = wire?.toSource.first { wire?.toSource.append(message) }
        case .cut:
            wire?.isCut = true
            if wire?.destinationEnd == false { wire?.toDestination = [] }
        case .sourceHangsUp:
            wire?.isCut = true
            wire?.sourceEnd = false
            wire?.toSource = []
            if wire?.destinationEnd == false { wire = nil }
            return source(.linkDown)
        case .sourceNotices:
            wire?.sourceEnd = false
            wire?.toSource = []
            detach()
            return source(.linkDown)
        case .destinationNotices:
            dropDestinationEnd()
            return destination(.linkDown)
        case .dial: return dial()
        case .accept: return accept()
        case .sourceTimer(let timer):
            sourceTimers.stop(timer)
            return source(.timer(timer))
        case .destinationTimer(let timer):
            destinationTimers.stop(timer)
            return destination(.timer(timer))
        case .stopAndCopy:
            commitSaid = false
            return source(.stopAndCopy(readyWithin: .seconds(1)))
        case .choose(let mode): return source(.choose(mode))
        case .cancelAtSource: return source(.cancel)
        case .cancelAtDestination: return destination(.cancel)
        case .memoryComplete:
            hasAllPages = true
            return destination(.memoryComplete)
        case .resolveAtSource(let resolution):
            let violation = source(.resolve(resolution))
            if case .deciding = source?.real.phase { sourceDecided = true }
            return violation
        case .resolveAtDestination(let resolution):
            let violation = destination(.resolve(resolution))
            if case .deciding = destination?.real.phase { destinationDecided = true }
            return violation
        case .killSource: killSource()
        case .killDestination: killDestination()
        case .restartSource:
            source = sourceLedger.flatMap { SourceHandOver(restoring: $0) }.map { FaultySource($0, fault: nil) }
            sourceWantsLink = true
        case .restartDestination:
            destination = destinationLedger.flatMap { DestinationHandOver(restoring: $0) }
                .map { FaultyDestination($0, fault: nil) }
        }
        return nil
    }

    private mutating func dial() -> String? {
        if var old = wire, old.destinationEnd, olderWire == nil {
            old.sourceEnd = false
            old.isCut = true
            old.toSource = []
            olderWire = old
        }
        wire = Wire()
        sourceWantsLink = false
        return source(.linkUp)
    }

    private mutating func accept() -> String? {
        if olderWire != nil {
            olderWire = nil
            if let violation = destination(.linkDown) { return violation }
        }
        wire?.destinationEnd = true
        return destination(.linkUp)
    }

    private mutating func killSource() {
        source = nil
        sourceKilled = true
        sourceQueue = []
        sourceTimers = TimerSet()
        sourceVM = .gone
        sourceHoldsDisks = false
        sourceWantsLink = false
        wire?.isCut = true
        wire?.sourceEnd = false
        wire?.toSource = []
        if wire?.destinationEnd == false { wire = nil }
    }

    private mutating func killDestination() {
        destination = nil
        destinationKilled = true
        destinationQueue = []
        destinationTimers = TimerSet()
        destinationVM = .gone
        destinationHoldsDisks = false
        olderWire = nil
        wire?.isCut = true
        wire?.destinationEnd = false
        wire?.toDestination = []
        detach()
    }
}
