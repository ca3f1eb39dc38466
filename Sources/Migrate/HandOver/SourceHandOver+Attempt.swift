/// One attempt: from the pause to COMMIT, or back to the running VM.

extension SourceHandOver {
    mutating func stopAndCopy(readyWithin budget: Duration) -> [Action] {
        guard phase == .copying else { return [.object(phase == .ended ? .sessionOver : .notNow)] }
        guard isLinked, pendingVoid == nil else { return [.object(.notNow)] }
        guard let next = attempt.next else { return [.object(.attemptsUsedUp)] }
        attempt = next
        digest = .unknown
        phase = .pausing
        return [.startTimer(.ready, budget), .pauseVM]
    }

    /// While an attempt is not settled, everything that is said of it goes by its own mode.
    mutating func choose(_ mode: HandOverMode) -> [Action] {
        guard phase == .copying, pendingVoid == nil else { return [.object(phase == .ended ? .sessionOver : .notNow)] }
        self.mode = mode
        return []
    }

    /// The attempt is over and the VM goes on here; COMMIT has not been said.
    mutating func fail(_ reason: AttemptFailure) -> [Action] {
        let notice: VoidReason = reason == .cancelled ? .final : .retry
        switch phase {
        case .pausing, .sending, .awaitingReady:
            let wasServing = mode == .postCopy && phase == .awaitingReady
            phase = .copying
            pendingVoid = notice
            // The VM first: the destination cannot run without COMMIT, so it need not hear of it before.
            return [.cancelTimer(.ready)] + (wasServing ? [.stopServing] : [])
                + [.resumeVM, .attemptFailed(attempt, reason)] + sayVoid()
        case .releasing:
            return retake(after: reason)
        case .recording(let withdraw):
            // The record may already be on its way to the ledger; it is taken back before the VM resumes.
            phase = .recording(withdraw: reason == .cancelled ? .cancelled : withdraw ?? reason)
            return []
        case .withdrawing:
            if reason == .cancelled { phase = .withdrawing(.cancelled) }
            return []
        default:
            return []
        }
    }

    /// The disks were released, or are being released: they come back before the VM resumes.
    private mutating func retake(after reason: AttemptFailure) -> [Action] {
        phase = .retaking(.afterFailure)
        pendingVoid = reason == .cancelled ? .final : .retry
        return (mode == .postCopy ? [.stopServing] : []) + [.attemptFailed(attempt, reason), .lockDisks]
    }

    mutating func attemptStep(_ event: Event) -> [Action] {
        switch event {
        case .paused where phase == .pausing:
            phase = .sending
            return [.sendLastPages(attempt)]
        case .pauseFailed where phase == .pausing:
            return fail(.pauseFailed)
        case .lastPagesSent(attempt, let digest) where phase == .sending:
            self.digest = digest
            phase = .awaitingReady
            mayBeWaitedFor = true
            return (mode == .postCopy ? [.servePages] : []) + [.send(message(.final(mode)))]
        case .lastPagesFailed(attempt) where phase == .sending:
            return fail(.lastPagesFailed)
        default:
            // An attempt that was given up meanwhile.
            return []
        }
    }

    mutating func diskStep(_ event: Event) -> [Action] {
        switch (event, phase) {
        case (.disksReleased, .releasing):
            phase = .recording(withdraw: nil)
            return [.record(.givenAway)]
        case (.releaseFailed, .releasing):
            return fail(.releaseFailed)
        case (.disksLocked, .retaking(let cause)):
            phase = cause == .afterFailure ? .copying : .resolvedHere
            return endDoubt() + [.resumeVM] + sayVoid()
        case (.lockFailed, .retaking):
            return report(.disksNotLocked) + [.startTimer(.retry, timeouts.retry)]
        default:
            return []
        }
    }

    mutating func recorded(_ written: HandOverLedger.Phase) -> [Action] {
        switch (written, phase) {
        case (.givenAway, .recording(nil)):
            phase = .committed
            return [.send(message(.commit))]
        case (.givenAway, .recording(let reason?)):
            phase = .withdrawing(reason)
            return [.record(.takenBack)]
        case (.takenBack, .withdrawing(let reason)):
            return retake(after: reason)
        case (.resolvedHere, .deciding(let origin)):
            phase = .retaking(.byDecision(origin))
            pendingVoid = .resolved
            return (mode == .postCopy ? [.stopServing] : []) + [.lockDisks]
        default:
            return []
        }
    }

    mutating func recordFailed(_ unwritten: HandOverLedger.Phase) -> [Action] {
        switch (unwritten, phase) {
        case (.givenAway, .recording(let reason)):
            return retake(after: reason ?? .recordFailed)
        case (.takenBack, .withdrawing(let reason)):
            // The ledger says "given away" and cannot be changed. A tool that reads it after a crash would repeat
            // COMMIT; so COMMIT it is.
            phase = .committed
            let objection: [Action] = reason == .cancelled ? [.object(.alreadyCommitted)] : []
            return objection + stateCommit()
        case (.resolvedHere, .deciding(let origin)):
            let objection: [Action] = [.object(.notRecorded)]
            switch origin {
            case .fromCommitted: phase = .committed
            case .fromServing: phase = .serving
            case .fromSplit:
                phase = .split
                return objection
            }
            return objection + (isLinked ? stateCommit() : [])
        default:
            return []
        }
    }

    /// Says COMMIT (again). That ends a doubt: a person may not decide while COMMIT is on its way.
    private mutating func stateCommit() -> [Action] {
        isLinked ? endDoubt() + [.send(message(.commit))] : [.startTimer(.doubt, timeouts.doubt), .reconnect]
    }

    private func sayVoid() -> [Action] {
        guard isLinked, let pendingVoid else { return [] }
        return [.send(message(.void(pendingVoid)))]
    }

    // MARK: A person's wishes

    mutating func cancel() -> [Action] {
        switch phase {
        case .copying:
            guard pendingVoid != .final else { return [] }
            guard isLinked || mayBeWaitedFor else {
                phase = .ended
                return [.ended(.stayed)]
            }
            pendingVoid = .final
            return sayVoid()
        case .pausing, .sending, .awaitingReady, .releasing, .recording, .withdrawing:
            return fail(.cancelled)
        case .retaking(.afterFailure):
            pendingVoid = .final
            return []
        case .committed, .serving, .deciding, .split, .retaking(.byDecision), .resolvedHere:
            return [.object(.alreadyCommitted)]
        case .freed, .ended:
            return [.object(.sessionOver)]
        }
    }

    mutating func resolve(_ resolution: HandOverResolution) -> [Action] {
        guard mayBeResolved else { return [.object(phase == .freed ? .sessionOver : .noDoubt)] }
        let origin: Resolved
        switch phase {
        case .committed: origin = .fromCommitted
        case .serving: origin = .fromServing
        case .split: origin = .fromSplit
        default: return [.object(.noDoubt)]
        }
        switch resolution {
        case .runHere(otherSideIsDead: false), .dropHere(copyMayBeLost: false):
            return [.object(.wordMissing)]
        case .runHere:
            guard hasCopy else { return [.object(.noCopy)] }
            // A destination that was restarted answers as well, to say that its copy is gone.
            guard !isLinked || phase != .split else { return [.object(.otherSideAnswers)] }
            phase = .deciding(origin)
            return [.record(.resolvedHere)]
        case .dropHere:
            phase = .freed
            return (mode == .postCopy ? [.stopServing] : []) + endDoubt()
                + (hasCopy ? [.freeVM] : []) + [.note(.void), .ended(.droppedHere)]
        }
    }

    // MARK: What the destination says

    mutating func receive(_ message: HandOverMessage) -> [Action] {
        guard message.session == session else { return [.ignored(message, .wrongSession)] }
        // Before linkUp and after linkDown nothing can be heard; a driver that delivers all the same is not trusted.
        guard isLinked else { return [.ignored(message, .notExpected)] }
        let heard: [Action] = [.startTimer(.silence, timeouts.silence)]
        if message.body == .alive { return heard }
        guard message.attempt == attempt else { return heard + [.ignored(message, .wrongAttempt(attempt))] }
        if message.body == .ready, phase == .awaitingReady, message.digest != digest {
            return heard + fail(.digestMismatch)
        }
        guard message.digest == digest else { return heard + [.ignored(message, .wrongDigest(digest))] }
        return heard + (act(on: message) ?? [.ignored(message, .notExpected)])
    }

    /// `nil` when the message says nothing new in this phase.
    private mutating func act(on message: HandOverMessage) -> [Action]? {
        switch (message.body, phase) {
        case (.ready, .awaitingReady):
            phase = .releasing
            return [.cancelTimer(.ready), .releaseDisks]
        case (.refused(let reason), .awaitingReady):
            return fail(.refused(reason))
        case (.voided, .copying), (.voided, .resolvedHere), (.voided, .ended):
            return voidAcknowledged()
        case (.running, .deciding(.fromSplit)), (.running, .retaking(.byDecision(.fromSplit))),
            (.installed, .deciding(.fromSplit)), (.installed, .retaking(.byDecision(.fromSplit))):
            return stepBack()
        case (.running, .committed), (.running, .deciding), (.running, .retaking(.byDecision)):
            return destinationRuns(hasAllPages: mode == .preCopy)
        case (.installed, .committed), (.installed, .deciding), (.installed, .retaking(.byDecision)),
            (.installed, .serving):
            return mode == .postCopy ? destinationRuns(hasAllPages: true) : nil
        case (.running, .resolvedHere), (.installed, .resolvedHere):
            // The word that the destination is dead was wrong. It holds COMMIT, so this side steps back.
            phase = .split
            pendingVoid = nil
            return [.pauseVM] + report(.split)
        case (.running, .freed), (.installed, .freed):
            return [.send(self.message(.done))]
        case (.running, .copying), (.installed, .copying), (.running, .ended), (.installed, .ended):
            // It was started there by a wrong word. The right is here, so it must hear VOID once more.
            guard hasCopy else { return nil }
            pendingVoid = pendingVoid ?? (phase == .ended ? .final : .retry)
            return sayVoid()
        case (.lost(let hasRun), .committed), (.lost(let hasRun), .serving):
            return report(hasRun ? .destinationRanAndDied : .destinationLost)
        default:
            return nil
        }
    }

    private mutating func voidAcknowledged() -> [Action]? {
        guard let notice = pendingVoid else { return nil }
        pendingVoid = nil
        mayBeWaitedFor = false
        switch notice {
        case .retry:
            return [.mayTryAgain]
        case .final:
            phase = .ended
            return [.ended(.stayed)]
        case .resolved:
            return [.ended(.resolvedHere)]
        }
    }

    /// Both sides ran by a wrong word, and a person wanted this one again while the other one still runs.
    private mutating func stepBack() -> [Action] {
        var actions: [Action] = [.object(.notNow)]
        if case .retaking = phase { actions = [.cancelTimer(.retry), .releaseDisks] + actions }
        phase = .split
        pendingVoid = nil
        return actions + report(.split)
    }

    /// The destination runs the VM; with all its pages it no longer needs this side.
    private mutating func destinationRuns(hasAllPages: Bool) -> [Action] {
        var actions: [Action] = []
        if case .retaking = phase {
            // A person's decision, not carried out yet, on a word that was wrong.
            actions = [.cancelTimer(.retry), .releaseDisks]
            if mode == .postCopy, !hasAllPages { actions += [.servePages] }
        }
        pendingVoid = nil
        mayBeWaitedFor = false
        actions += endDoubt()
        guard hasAllPages else {
            phase = .serving
            return actions + [.note(.givenAway)]
        }
        phase = .freed
        return actions + (mode == .postCopy ? [.stopServing] : []) + (hasCopy ? [.freeVM] : [])
            + [.note(.done), .send(message(.done)), .ended(.handedOver)]
    }
}
