/// The source's coordinator: one thread that takes a migration from the first connection to the report.

import DirtyLog
import Logging
import Synchronization
import Units

final class SourceCoordinator {
    let migration: OutgoingMigration
    var lanes: [SourceLane] = []
    var rounds: [RoundStatistics] = []
    /// When the last round began.
    var roundBegun: MonotonicInstant?
    /// The part of the downtime that does not depend on memory: measured on slow hosts, so that it is rather too long.
    let fixedCost: Duration = .milliseconds(3)
    var driver: SourceHandOverDriver?
    var session: SourceSession?
    var tracker: (any DirtyTracker)?
    /// Pages known to be dirty and not sent since.
    var pending: [PageSet]
    /// What the guest writes, by stripe.
    var dirtyRate: DirtyRateMeter
    let hashes: PageHashes
    /// The last marker sent on the lanes, and the last that every lane has seen.
    var epoch: UInt64 = 0
    var seenEpoch: UInt64 = 0
    var setup: Duration = .zero
    var attempts = 0
    var agreedDigest: MemoryDigest?
    var phases = DowntimePhases()
    /// Serves pages in post-copy.
    var pages: PageServer?
    /// Pages that the attempt under way leaves behind.
    var left: [PageSet]?
    /// What counting these as zeros changed of the digest.
    var retaken = DigestShare()
    var switchReason: SwitchReason?
    var downtimeBytes: UInt64 = 0
    private var recorders: [StreamRecorder] = []

    init(_ migration: OutgoingMigration) {
        self.migration = migration
        let counts = migration.machine.memory.map(\.pageCount)
        pending = counts.map { PageSet(pageCount: $0) }
        dirtyRate = DirtyRateMeter(pageCounts: counts)
        hashes = PageHashes(pageCounts: counts)
    }

    var logger: Logger { migration.logger }

    /// Does everything; never throws: whatever happens ends in a report.
    func run() -> MigrationReport {
        migration.meter.begin()
        var failure: MigrationError?
        do {
            try open()
            try copyAndHandOver()
        } catch let error as MigrationError {
            failure = error
        } catch {
            failure = MigrationError(.failed, "\(error)")
        }
        let outcome = settle(failure)
        let report = report(outcome: outcome, failure: failure)
        close(outcome)
        return report
    }

    // MARK: - Opening

    /// Connects, offers the VM, opens the lanes, starts the dirty log.
    private func open() throws {
        let options = migration.options
        let wanted = min(max(options.lanes ?? LanePlan.defaultLaneCount, 1), StreamFormat.laneLimit)
        let recorder = try recorder("control")
        let (session, reader): (SourceSession, ReaderHandle)
        do {
            (session, reader) = try SourceSession.open(
                to: migration.destination, configuration: migration.machine.configuration, lanes: wanted,
                needs: needs, recorder: recorder, welcomeTimeout: options.welcomeTimeout
            ) { [migration] connection in
                // From now on a cancel ends the waiting.
                let isCancelled = migration.wishes.withLock { wishes in
                    wishes.connection = connection
                    return wishes.isCancelled
                }
                if isCancelled {
                    connection.shutDown(because: TransportError(.shutDown, "the migration was cancelled"))
                }
            }
        } catch {
            guard migration.wishes.withLock({ $0.isCancelled }) else { throw error }
            throw MigrationError(.cancelled, "the migration was cancelled")
        }
        // A peer that is stopped reads nothing: writing to it must not wait for longer than its silence may last.
        session.connection.setWriteTimeout(options.timeouts.silence)
        self.session = session
        let link = ControlLink { [weak migration] generation, happening in
            guard let driver = migration?.wishes.withLock({ $0.driver }) else { return }
            Self.deliver(happening, generation, to: driver)
        }
        let driver = try SourceHandOverDriver(
            session: session.identifier, timeouts: options.timeouts, machine: migration.machine, link: link,
            peer: migration.destination.description, logger: logger, record: options.recordLedger,
            redial: { [weak migration] in migration?.redial(session.identifier, link) },
            onLinkDown: { [weak migration] error in migration?.abandonLanes(because: error) })
        self.driver = driver
        let isCancelled = migration.wishes.withLock { wishes in
            wishes.driver = driver
            wishes.connection = session.connection
            return wishes.isCancelled
        }
        try link.attach(session.connection, writer: session.writer, reader: reader)
        if isCancelled { driver.submit(.cancel) }
        try startLog()
        try openPages(session)
        try openLanes(session)
        setup = migration.meter.elapsed
    }

    private func startLog() throws {
        do {
            let tracker = try migration.machine.makeDirtyTracker()
            try tracker.start(allSet: true)
            dirtyRate.begin(atNanoseconds: MonotonicInstant.now.nanoseconds)
            self.tracker = tracker
        } catch {
            throw MigrationError(.failed, "the dirty log cannot be started: \(error)")
        }
    }

    private func openLanes(_ session: SourceSession) throws {
        guard let tracker else { return }
        let context = LaneContext(
            machine: migration.machine, tracker: tracker, hashes: hashes,
            plan: LanePlan(laneCount: session.lanesGranted), limiter: migration.limiter)
        for index in 0..<session.lanesGranted {
            do {
                let lane = try session.openLane(
                    index, to: migration.destination, context: context, recorder: recorder("lane-\(index)"),
                    stall: migration.options.timeouts.abandon)
                lanes.append(lane)
                migration.wishes.withLock { $0.lanes.append(lane) }
            } catch let refusal as Refusal {
                throw MigrationError(.refused, "\(migration.destination) refused lane \(index): \(refusal.reason)")
            } catch {
                throw MigrationError(.peerLost, "lane \(index) cannot be opened: \(error)")
            }
        }
    }

    /// What could not be kept of the stream.
    var recordingFailures: [String] { recorders.compactMap(\.failure) }

    private func recorder(_ name: String) throws -> StreamRecorder? {
        guard let directory = migration.options.recordDirectory else { return nil }
        do {
            let recorder = try StreamRecorder(path: "\(directory)/\(name).stream")
            recorders.append(recorder)
            return recorder
        } catch {
            throw MigrationError(.failed, "\(error)")
        }
    }

    private static func deliver(
        _ happening: ControlLink.Happening, _ generation: Int, to driver: SourceHandOverDriver
    ) {
        switch happening {
        case .up: driver.submit(.linkUp(generation))
        case .record(.handover(let message)): driver.submit(.heard(generation, message))
        case .record(.timings(let timings)): driver.situation.update { $0.timings = timings }
        case .record(.pagingTimes(let times)): driver.situation.update { $0.pagingTimes = times }
        case .record(.refusal(let refusal)):
            driver.submit(.linkDown(generation, refusal))
        case .record(.end): break
        case .record(let other):
            driver.submit(
                .linkDown(generation, StreamError(.unexpected, "the destination sent an unexpected \(other.type)")))
        case .down(let error): driver.submit(.linkDown(generation, error))
        }
    }

    // MARK: - Ending

    /// Sees to it that the hand-over has ended, and says how.
    private func settle(_ failure: MigrationError?) -> MigrationOutcome {
        guard let driver else { return failure?.outcome ?? .failed }
        // An error of ours before COMMIT: the VM stays, and the destination is told. Without effect after it.
        if failure != nil { driver.submit(.cancel) }
        let outcome: HandOverOutcome? = driver.situation.wait { $0.outcome }
        switch outcome {
        case .handedOver: return .completed
        case .resolvedHere: return .resolvedHere
        case .droppedHere: return .droppedHere
        default: return failure?.outcome ?? .cancelled
        }
    }

    private func close(_ outcome: MigrationOutcome) {
        let machineStays = outcome != .completed && outcome != .droppedHere
        for lane in lanes { lane.leave(orderly: outcome == .completed) }
        pages?.end()
        // In this order: a dialler must not attach a connection to a link that has ended.
        migration.finishRedialling()
        driver?.closeSession()
        migration.wishes.withLock { wishes in
            wishes.driver = nil
            wishes.lanes = []
            wishes.connection = nil
            wishes.pages = nil
        }
        if machineStays {
            do { try tracker?.stop() } catch { logger.error("the dirty log cannot be stopped: \(error)") }
        }
        migration.meter.enter(.ended)
    }
}
