/// One attempt: from FINAL to the running VM, or back to waiting.

extension DestinationHandOver {
    mutating func loadStep(_ event: Event) -> [Action] {
        switch event {
        case .loaded(attempt, let loaded) where phase == .loading:
            guard loaded == digest else { return refuse(.digestMismatch) }
            phase = .ready
            // The note is for a tool that is started after this process died; the blackout does not wait for it.
            return [.send(message(.ready)), .note(.ready)]
        case .loadFailed(attempt, let reason) where phase == .loading:
            return refuse(reason)
        default:
            // An attempt that was given up meanwhile.
            return []
        }
    }

    private mutating func refuse(_ reason: RefusalReason) -> [Action] {
        phase = .refused
        return [.send(message(.refused(reason)))]
    }

    mutating func startStep(_ event: Event) -> [Action] {
        switch (event, phase) {
        case (.disksLocked, .locking(let entitlement)):
            phase = .starting(entitlement)
            return endDoubt() + [.runVM]
        case (.lockFailed, .locking):
            return report(.disksNotLocked) + [.startTimer(.retry, timeouts.retry)]
        case (.started, .starting(let entitlement)):
            phase = .running(entitlement)
            return [.cancelTimer(.doubt)] + (isLinked ? statement() : []) + [.note(.running)]
        case (.startFailed, .starting):
            phase = .stopped(.startFailed)
            // Without the disks: a person may have the VM run at the source instead.
            return [.releaseDisks] + report(.startFailed) + [.stayStopped(.startFailed)]
        default:
            return []
        }
    }

    mutating func memoryComplete() -> [Action] {
        guard mode == .postCopy, case .running = phase, !isMemoryComplete else { return [] }
        isMemoryComplete = true
        return isLinked ? statement() : []
    }

    mutating func recorded(_ written: HandOverLedger.Phase) -> [Action] {
        guard written == .resolvedHere, case .deciding = phase else { return [] }
        phase = .locking(.decision)
        return [.lockDisks]
    }

    mutating func recordFailed(_ unwritten: HandOverLedger.Phase) -> [Action] {
        guard unwritten == .resolvedHere, case .deciding(let stop) = phase else { return [] }
        if let stop {
            phase = .stopped(stop)
            return [.object(.notRecorded), .stayStopped(stop)]
        }
        phase = .ready
        // The link may have come back while the ledger was being written; then READY was not repeated.
        return [.object(.notRecorded)] + (isLinked ? endDoubt() + [.send(message(.ready))] : [])
    }

    // MARK: A person's wishes

    mutating func cancel() -> [Action] {
        switch phase {
        case .receiving, .loading, .refused:
            let wasLoading = phase == .loading
            phase = .ended
            return (wasLoading ? [.cancelLoad] : [])
                + (isLinked ? [.send(message(.refused(.cancelled)))] : []) + [.discardCopy, .ended(.discarded)]
        case .ready, .deciding:
            return [.object(.alreadyReady)]
        case .locking, .starting, .running, .finished, .stopped:
            return [.object(.alreadyCommitted)]
        case .lost, .ended:
            return [.object(.sessionOver)]
        }
    }

    mutating func resolve(_ resolution: HandOverResolution) -> [Action] {
        guard mayBeResolved else { return [.object(.noDoubt)] }
        switch resolution {
        case .runHere(otherSideIsDead: false), .dropHere(copyMayBeLost: false):
            return [.object(.wordMissing)]
        case .runHere:
            // Pages that are still at the source cannot be had without it. (After COMMIT they are on their way, and a
            // start that failed may be tried again.)
            let isWhole = mode == .preCopy || isMemoryComplete || phase == .stopped(.startFailed)
            guard isWhole else { return [.object(.noCopy)] }
            switch phase {
            case .ready:
                phase = .deciding(instead: nil)
                return [.record(.resolvedHere)]
            case .stopped(let stop):
                // A failed start may be tried again while the source waits for it.
                guard !isLinked || stop == .startFailed else { return [.object(.otherSideAnswers)] }
                phase = .deciding(instead: stop)
                return [.record(.resolvedHere)]
            default:
                return [.object(.noDoubt)]
            }
        case .dropHere:
            switch phase {
            case .ready, .stopped, .locking:
                phase = .ended
                return endDoubt() + [.cancelTimer(.retry), .discardCopy, .note(.void), .ended(.droppedHere)]
            default:
                return [.object(.noDoubt)]
            }
        }
    }

    // MARK: What the source says

    mutating func receive(_ message: HandOverMessage) -> [Action] {
        guard message.session == session else { return [.ignored(message, .wrongSession)] }
        guard isLinked else { return [.ignored(message, .notExpected)] }
        let heard: [Action] = [.startTimer(.silence, timeouts.silence)]
        switch message.body {
        case .alive:
            return heard
        case .final(let mode):
            return heard + (final(message, mode) ?? [.ignored(message, objection(to: message))])
        case .void(let reason):
            return heard + (void(message, reason) ?? [.ignored(message, objection(to: message))])
        case .commit, .done:
            guard message.attempt == attempt, message.digest == digest else {
                return heard + [.ignored(message, objection(to: message))]
            }
            let effect = message.body == .commit ? commit() : done()
            return heard + (effect ?? [.ignored(message, .notExpected)])
        case .ready, .refused, .voided, .running, .installed, .lost:
            return heard + [.ignored(message, .notExpected)]
        }
    }

    private func objection(to message: HandOverMessage) -> IgnoredMessage {
        if message.attempt != attempt { return .wrongAttempt(attempt) }
        return message.digest == digest ? .notExpected : .wrongDigest(digest)
    }

    /// No copy that anything is owed for.
    private var mayHearOfAttempts: Bool {
        switch phase {
        case .receiving, .ended, .lost: true
        default: false
        }
    }

    private mutating func final(_ message: HandOverMessage, _ mode: HandOverMode) -> [Action]? {
        guard mayHearOfAttempts, message.attempt > attempt else { return nil }
        attempt = message.attempt
        digest = message.digest
        // Stopped by a person, or restarted, while the source was on its way here.
        if phase != .receiving { return [.send(self.message(.refused(.cancelled)))] }
        self.mode = mode
        isMemoryComplete = false
        phase = .loading
        return [.load(attempt, mode)]
    }

    private mutating func commit() -> [Action]? {
        switch phase {
        case .ready, .deciding(nil):
            phase = .locking(.commit)
            return endDoubt() + [.lockDisks]
        case .locking(.decision):
            phase = .locking(.commit)
            return []
        case .starting(.decision):
            phase = .starting(.commit)
            return []
        case .running:
            phase = .running(.commit)
            return statement()
        case .finished:
            return statement()
        case .lost(let hasRun):
            return [.send(self.message(.lost(hasRun: hasRun)))]
        case .receiving, .loading, .refused, .deciding, .locking(.commit), .starting(.commit), .stopped, .ended:
            return nil
        }
    }

    private mutating func done() -> [Action]? {
        guard case .running = phase else { return nil }
        phase = .finished
        return [.note(.done), .ended(.handedOver)]
    }

    private mutating func void(_ message: HandOverMessage, _ reason: VoidReason) -> [Action]? {
        // An attempt whose FINAL never came is void as well: it must not come later.
        if mayHearOfAttempts, message.attempt > attempt {
            attempt = message.attempt
            digest = message.digest
        }
        guard message.attempt == attempt, message.digest == digest else { return nil }
        let acknowledge: [Action] = [.send(self.message(.voided))]
        switch phase {
        case .receiving, .refused:
            return acknowledge + forget(reason)
        case .loading:
            return [.cancelLoad] + acknowledge + forget(reason)
        case .ready, .deciding(nil):
            return endDoubt() + acknowledge + [.note(.void)] + forget(reason)
        case .deciding(let stop?):
            phase = .stopped(stop)
            return acknowledge + [.note(.void), .stayStopped(stop)]
        case .locking(.commit) where reason != .resolved:
            return nil
        case .locking:
            // The source lives and runs it; here it does not run yet. Giving up a right is always safe.
            return endDoubt() + [.cancelTimer(.retry), .releaseDisks] + acknowledge + [.note(.void)] + forget(reason)
        case .starting(.decision), .running(.decision):
            // The source lives and runs it. Doubt stops a VM; it never forks it.
            phase = .stopped(.split)
            return [.pauseVM] + acknowledge + report(.split) + [.stayStopped(.split)]
        case .running(.commit), .finished:
            // The source was resolved to run by a wrong word. The right is here.
            return statement()
        case .starting(.commit):
            return nil
        case .stopped(.startFailed):
            return endDoubt() + acknowledge + [.note(.void)] + forget(reason)
        case .stopped, .lost, .ended:
            return acknowledge
        }
    }

    /// The attempt is void and understood to be.
    private mutating func forget(_ reason: VoidReason) -> [Action] {
        switch reason {
        case .retry:
            phase = .receiving
            return []
        case .final:
            phase = .ended
            return [.discardCopy, .ended(.discarded)]
        case .resolved:
            phase = .stopped(.voidedByDecision)
            return [.stayStopped(.voidedByDecision)]
        }
    }
}
