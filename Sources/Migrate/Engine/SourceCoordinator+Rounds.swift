/// Pre-copy: rounds until the policy says stop, then the attempt to hand over.

import DirtyLog
import Logging
import Synchronization
import Units

extension SourceCoordinator {
    /// Failed attempts after which the migration is given up.
    private static let attemptLimit = 5
    /// Pages up to which a pass is sent by the coordinator itself: a lane's thread would wake up later than that.
    static let smallPass = 128

    func copyAndHandOver() throws {
        while true {
            try checkWishes()
            let isMeasured = pendingPages == 0 && !rounds.isEmpty
            try harvest()
            if isMeasured { measureWrites() }
            noteRound()
            let limits = migration.limits
            let preCopy = PreCopyPolicy.decide(
                history: rounds, limits: limits, fixedCost: fixedCost, elapsed: migration.meter.elapsed)
            switch SwitchPolicy.decide(
                mode: migration.options.mode, preCopy: preCopy, history: rounds,
                memoryPages: migration.meter.pagesTotal,
                isForced: migration.wishes.withLock { $0.isSwitchWanted })
            {
            case .preCopy(.anotherRound), .preCopy(.throttle):
                // Limits that allow throttling do not come here: see `MigrationOptions`.
                try sendRound()
            case .preCopy(.stopAndCopy) where seenEpoch < epoch, .postCopy where seenEpoch < epoch:
                // What is still on its way would be waited for in the pause.
                try drain()
            case .preCopy(.stopAndCopy):
                driver?.submit(.choose(.preCopy))
                if try handOver(limits) { return }
            case .postCopy(let reason):
                try preparePostCopy(reason)
                driver?.submit(.choose(.postCopy))
                if try handOver(limits, mode: .postCopy) { return }
            case .preCopy(.giveUp(let reason)):
                throw MigrationError(.notConverging, "\(reason)")
            }
        }
    }

    var pendingPages: Int { pending.reduce(0) { $0 + $1.count } }

    /// Adds what the guest wrote to `pending`.
    func harvest() throws {
        guard let tracker else { return }
        do {
            if case .invalid(let reason) = try tracker.harvest(into: &pending) {
                logger.warning("the dirty log is not trusted any more (\(reason)); all pages are sent again")
                for region in pending.indices { pending[region].insertAll() }
                dirtyRate.begin(atNanoseconds: MonotonicInstant.now.nanoseconds)
            }
        } catch {
            throw MigrationError(.failed, "the dirty log cannot be read: \(error)")
        }
    }

    /// Feeds the meter with a harvest that holds nothing older than the last one.
    private func measureWrites() {
        dirtyRate.record(pending, atNanoseconds: MonotonicInstant.now.nanoseconds)
        migration.meter.note(workingSetBytes: dirtyRate.workingSetBytes.rawValue)
    }

    /// Throws if somebody cancelled or the link is gone. A cancelled destination closes the link: the wish counts first.
    func checkWishes() throws {
        guard let driver else { return }
        if migration.wishes.withLock({ $0.isCancelled }) {
            throw MigrationError(.cancelled, "the migration was cancelled")
        }
        switch driver.situation.read({ $0.lostLink }) {
        case let refusal as Refusal: throw MigrationError(.refused, "the destination refused: \(refusal.reason)")
        case let lost?: throw MigrationError(.peerLost, "\(lost)")
        case nil: break
        }
    }

    // MARK: - Rounds

    /// Completes the last round's statistics, now that its residue is known. Called again when the residue was read
    /// again, after a drain or a failed attempt.
    private func noteRound() {
        guard let begun = roundBegun, let last = rounds.indices.last else { return }
        rounds[last].duration = .now - begun
        rounds[last].pagesDirtied = pendingPages
        rounds[last].residuePages = pendingPages
        let prediction = PreCopyPolicy.prediction(history: rounds, limits: migration.limits, fixedCost: fixedCost)
        migration.meter.note(dirtyBytesPerSecond: rounds[last].dirtyRate, expectedDowntime: prediction?.total)
    }

    private func sendRound() throws {
        let pages = pendingPages
        let index = rounds.count
        let before = totals
        migration.meter.beginRound(index, pages: UInt64(pages), sentBefore: before.pages)
        let progress = migration.progress
        driver?.sendProgress(
            ProgressRecord(
                round: UInt32(clamping: index), pagesSent: before.pages, pagesTotal: progress.pagesTotal,
                bytesPerSecond: UInt64(max(progress.bytesPerSecond, 0))))
        roundBegun = .now
        try pass(findsHoles: index == 0, isPaused: false, pages: pages)
        // A long round's end is hidden behind the next one's beginning; a short one must not measure buffers.
        if pages < 16 * pagesPerStripe { try drain() }
        let sent = totals
        rounds.append(
            RoundStatistics(
                index: index, pagesSent: Int(clamping: sent.pages - before.pages),
                zeroPages: Int(clamping: sent.zeroPages - before.zeroPages), bytes: sent.bytes - before.bytes,
                duration: .zero, pagesDirtied: 0, residuePages: 0))
    }

    /// Sends `pending` over all lanes, behind it a marker, and empties it.
    func pass(findsHoles: Bool, isPaused: Bool, pages: Int) throws {
        epoch += 1
        let work = LanePass(
            pages: pending, findsHoles: findsHoles, isPaused: isPaused, rearms: !isPaused, epoch: epoch)
        do {
            if pages <= Self.smallPass {
                for lane in lanes { try lane.runHere(work) }
            } else {
                for lane in lanes { lane.begin(work) }
                var failure: (any Error)?
                for lane in lanes {
                    do { try finishPass(of: lane, isPaused: isPaused) } catch { failure = failure ?? error }
                }
                if let failure { throw failure }
            }
        } catch {
            throw laneFailure(error)
        }
        // What was left out as somebody wants the VM to move now is still to be sent.
        let unsent = lanes.filter(\.wasCutShort).map { $0.unsent(of: pending) }
        for region in pending.indices {
            pending[region].removeAll()
            for sets in unsent { pending[region].formUnion(sets[region]) }
        }
    }

    /// Waits for the end of a lane's pass; breaks it off when the time limit is used up.
    private func finishPass(of lane: SourceLane, isPaused: Bool) throws {
        while try !lane.finishPass(within: .milliseconds(100)) {
            guard !isPaused, let most = migration.limits.maxTime, migration.meter.elapsed > most else { continue }
            for lane in lanes { lane.interrupt() }
            throw MigrationError(
                .notConverging, "the time limit was used up within round \(rounds.count): allow more time")
        }
    }

    /// Waits until everything sent is in the destination's memory.
    func drain() throws {
        do {
            while seenEpoch < epoch {
                for lane in lanes { try lane.awaitSeen(epoch: seenEpoch + 1) }
                seenEpoch += 1
            }
        } catch {
            throw laneFailure(error)
        }
    }

    /// What a lane's error means: somebody's wish, a refusal, or a lost peer.
    private func laneFailure(_ error: any Error) -> any Error {
        do { try checkWishes() } catch { return error }
        switch error {
        case let error as MigrationError: return error
        case let refusal as Refusal: return MigrationError(.refused, "the destination refused: \(refusal.reason)")
        case let error as TransportError: return MigrationError(.peerLost, "\(error)")
        case let error as StreamError: return MigrationError(.peerLost, "\(error)")
        default: return MigrationError(.failed, "\(error)")
        }
    }

    var totals: PageCounts {
        lanes.reduce(into: PageCounts()) { $0.add($1.currentProgress.counts) }
    }

    // MARK: - The attempt

    /// Tries to hand over. True when it is done, false when rounds go on.
    private func handOver(_ limits: MigrationLimits, mode: HandOverMode = .preCopy) throws -> Bool {
        guard let driver else { return true }
        attempts += 1
        migration.meter.enter(.handingOver)
        driver.situation.update { state in
            state.failure = nil
            state.mayTryAgain = false
            state.refusedWish = nil
        }
        // A switch that came too late for this must not cut the last pages short.
        for lane in lanes { lane.cutShort(false) }
        let least: Duration = mode == .postCopy ? .seconds(2) : .milliseconds(200)
        driver.submit(.stopAndCopy(readyWithin: max(limits.maxDowntime * 2, least)))
        while true {
            let next: AttemptStep? = driver.situation.wait { state in
                if let attempt = state.lastPagesWanted {
                    state.lastPagesWanted = nil
                    return .sendLastPages(attempt)
                }
                if state.outcome != nil { return .ended }
                if state.failure != nil, state.mayTryAgain || state.lostLink != nil { return .failed }
                // The machine did not even begin: the link is down, or the last attempt is not settled.
                if state.phase == .copying, state.refusedWish != nil { return .failed }
                return nil
            }
            switch next {
            case .sendLastPages(let attempt):
                do {
                    let digest =
                        mode == .postCopy ? try sendWhatIsNeeded(driver, attempt) : try sendLastPages(driver)
                    driver.submit(.lastPagesSent(attempt, digest))
                } catch {
                    logger.info("the last pages could not be sent: \(error)")
                    driver.submit(.lastPagesFailed(attempt))
                }
            case .failed:
                try judgeFailure(driver)
                return false
            case .ended, nil:
                return try concludeAttempt(driver)
            }
        }
    }

    private enum AttemptStep {
        case sendLastPages(AttemptNumber)
        case failed
        case ended
    }

    /// The VM stands still: state, last pages, digest.
    private func sendLastPages(_ driver: SourceHandOverDriver) throws -> MemoryDigest {
        let begun = MonotonicInstant.now
        let before = totals
        try harvest()
        let early = pendingPages > Self.smallPass
        // A large residue is on its way while the state is captured; a small one is not worth waking the lanes for. It is
        // rearmed, or the harvest below would report it again, and it would be sent twice.
        if early { for lane in lanes { lane.begin(LanePass(pages: pending, findsHoles: false, isPaused: true)) } }
        let logged = MonotonicInstant.now
        let machine = migration.machine
        let state = Result { try driver.whileStopped { try machine.captureState() } }
        let captured = MonotonicInstant.now
        if early {
            var failure: (any Error)?
            for lane in lanes {
                do { try lane.finishPass() } catch { failure = failure ?? error }
            }
            if let failure { throw failure }
            for region in pending.indices { pending[region].removeAll() }
        }
        let sections = try state.get()
        // Draining devices and capturing writes to guest memory too (DESIGN section 10): look again.
        try harvest()
        driver.sendState(sections)
        try pass(findsHoles: false, isPaused: true, pages: pendingPages)
        let digest = hashes.digest(lanes.map { $0.currentProgress.share } + sharesOfPages)
        driver.sendDigest(DigestRecord(digest: digest, pageCount: hashes.pageCount, epoch: epoch))
        agreedDigest = digest
        let sent = MonotonicInstant.now
        downtimeBytes = totals.bytes - before.bytes
        phases.lastLog = (logged - begun).milliseconds
        phases.capture = (captured - logged).milliseconds
        phases.residue = (sent - captured).milliseconds
        return digest
    }

    /// The attempt failed and the VM runs on: once more, or give up.
    private func judgeFailure(_ driver: SourceHandOverDriver) throws {
        agreedDigest = nil
        takeBackStale()
        try checkWishes()
        // What the failed attempt sent may have changed since; the log knows. What it did not send is still pending.
        if seenEpoch < epoch { try drain() }
        let failure = driver.situation.read { $0.failure }
        switch failure {
        case .refused(let reason):
            throw MigrationError(.refused, "the destination could not take the VM over (\(reason))")
        case .digestMismatch:
            throw MigrationError(.failed, "the destination's memory differs from ours")
        case .pauseFailed, .releaseFailed, .recordFailed:
            throw MigrationError(.failed, driver.situation.read { $0.localFailure } ?? "the hand-over failed here")
        default:
            guard attempts < Self.attemptLimit else {
                throw MigrationError(.notConverging, "\(attempts) attempts to hand over failed")
            }
        }
    }

    private func concludeAttempt(_ driver: SourceHandOverDriver) throws -> Bool {
        switch driver.situation.read({ $0.outcome }) {
        case .handedOver, .resolvedHere, .droppedHere, nil: return true
        default:
            try checkWishes()
            throw MigrationError(.cancelled, "the migration was cancelled")
        }
    }
}

extension Duration {
    var milliseconds: Double { inSeconds * 1000 }
}
