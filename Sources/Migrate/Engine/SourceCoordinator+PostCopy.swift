/// Post-copy in the source's coordinator: when the VM changes hands before its pages, and what leaves while it stands.

import DirtyLog
import Logging
import Synchronization
import Units

extension SourceCoordinator {
    /// The server of pages, where the session was negotiated with one.
    func openPages(_ session: SourceSession) throws {
        guard migration.options.mode != .preCopy else { return }
        let server = try PageServer(
            machine: migration.machine, hashes: hashes, limiter: migration.limiter, session: session,
            destination: migration.destination, stall: migration.options.timeouts.abandon, logger: logger)
        pages = server
        driver?.pages.withLock { $0 = server }
        migration.wishes.withLock { $0.pages = server }
    }

    /// What the destination must be able to do.
    var needs: Hello.Needs {
        switch migration.options.mode {
        case .preCopy: []
        case .postCopy: [.paging, .nothingBefore]
        case .hybrid: .paging
        }
    }

    /// Everything but the switch is ready: the lanes that will carry pages stand.
    func preparePostCopy(_ reason: SwitchReason) throws {
        guard let pages else { throw MigrationError(.failed, "no pages can be served") }
        do {
            try pages.connect()
        } catch let refusal as Refusal {
            throw MigrationError(.refused, "\(migration.destination) refused the lanes for pages: \(refusal.reason)")
        } catch {
            throw MigrationError(.peerLost, "the lanes for pages cannot be opened: \(error)")
        }
        switchReason = reason
        logger.notice("the VM is handed over before its pages: \(reason)")
    }

    /// The VM stands still: its state leaves, and which pages will follow. No page does.
    func sendWhatIsNeeded(_ driver: SourceHandOverDriver, _ attempt: AttemptNumber) throws -> MemoryDigest {
        guard let pages else { throw MigrationError(.failed, "no pages can be served") }
        let begun = MonotonicInstant.now
        let machine = migration.machine
        let sections = try driver.whileStopped { try machine.captureState() }
        let captured = MonotonicInstant.now
        // Draining devices and capturing writes guest memory: one harvest behind them sees it all.
        try harvest()
        let logged = MonotonicInstant.now
        let stale = pending
        left = stale
        for region in pending.indices { pending[region].removeAll() }
        driver.sendState(sections)
        driver.sendStale(stale, of: attempt)
        // The marker behind which no page comes over the ordinary lanes.
        try pass(findsHoles: false, isPaused: true, pages: 0)
        var share = DigestShare()
        PostCopyDigest.takeBack(stale, from: hashes, share: &share)
        retaken.sum &+= share.sum
        let shares = lanes.map { $0.currentProgress.share } + [retaken]
        let digest = PostCopyDigest.digest(memory: hashes.digest(shares + [pages.share]), state: sections, stale: stale)
        driver.sendDigest(DigestRecord(digest: digest, pageCount: hashes.pageCount, epoch: epoch))
        pages.prepare(PageServer.Job(attempt: attempt, stale: stale, shares: shares))
        agreedDigest = nil
        phases.capture = (captured - begun).milliseconds
        phases.lastLog = (logged - captured).milliseconds
        phases.residue = (MonotonicInstant.now - logged).milliseconds
        return digest
    }

    /// What earlier attempts in post-copy changed of the digest.
    var sharesOfPages: [DigestShare] { pages.map { [retaken, $0.share] } ?? [] }

    /// The attempt failed: what was left behind is to be sent after all.
    func takeBackStale() {
        guard let stale = left else { return }
        left = nil
        for region in pending.indices { pending[region].formUnion(stale[region]) }
    }

    /// What followed the VM, for the report.
    func pagingReport(_ times: PagingTimes?) -> PagingReport? {
        guard let pages, let left, let switchReason else { return nil }
        let progress = pages.progress
        let counts = progress.counts
        let total = counts.counts.pages
        var report = PagingReport()
        report.pagesLeft = left.reduce(0) { $0 + UInt64($1.count) }
        report.pagesDemanded = counts.demanded
        report.pagesPushed = total - min(total, counts.demanded + counts.again)
        report.pagesPrefetched = counts.prefetched
        report.pagesSentTwice = total - min(total, report.pagesLeft)
        report.bytes = counts.counts.bytes
        report.interruptions = progress.interruptions
        report.reason = "\(switchReason)"
        report.faults = times
        if let running = driver?.stamps.withLock({ $0.runningHeard }) {
            report.seconds = (MonotonicInstant.now - running).inSeconds
        }
        return report
    }
}
