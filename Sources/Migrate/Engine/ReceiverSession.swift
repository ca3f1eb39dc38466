/// A session at the destination, from WELCOME to the running VM.

import Logging
import Synchronization
import Units

/// What one accepted source has brought so far.
final class ReceiverSession: Sendable {
    /// What the control connection brought for the attempt under way.
    private struct Arrived: Sendable {
        var sections: [StateSection] = []
        var stateBytes = 0
        var digest: DigestRecord?
        /// Pages that will follow.
        var stale: PageSetAssembly?
        var progress: ProgressRecord?
        var clock = PeerClock()
    }

    let identifier: SessionIdentifier
    let machine: any MigratableMachine
    let configuration: MachineConfiguration
    let lanesGranted: Int
    let laneSecret: [UInt8]
    let driver: DestinationHandOverDriver
    private let link: ControlLink
    private let memory: DestinationMemory
    /// Takes pages after the switch, if the source wants that.
    private let pager: DestinationPager?
    private let arrived = Mutex(Arrived())
    private let lanes: Monitor<[Int: DestinationLane]>
    /// Lanes whose place is taken, whether or not they stand yet.
    private let claimed = Mutex<Set<Int>>([])
    private let logger: Logger
    /// What a lane brought that makes no sense, before there was a control connection to say so.
    private let unsaid = Mutex<(any Error)?>(nil)

    /// State that a source may make us keep, in bytes and in sections.
    private static let stateLimit = 256 << 20
    private static let sectionLimit = 8192

    init(
        identifier: SessionIdentifier, machine: any MigratableMachine, lanes wanted: Int, paging: (any MemoryPaging)?,
        peer: String, options: ReceiveOptions, logger: Logger
    ) throws {
        var generator = SystemRandomNumberGenerator()
        let lanes = Monitor<[Int: DestinationLane]>([:])
        let weakly = WeakSession()
        let link = ControlLink { generation, happening in weakly.session?.take(happening, generation) }
        self.identifier = identifier
        self.machine = machine
        self.lanes = lanes
        self.link = link
        self.logger = logger
        configuration = machine.configuration
        lanesGranted = wanted
        laneSecret = (0..<32).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
        let regions = machine.memory
        memory = DestinationMemory(
            regions: regions, hashes: PageHashes(pageCounts: regions.map(\.pageCount)),
            plan: LanePlan(laneCount: wanted))
        driver = try DestinationHandOverDriver(
            session: identifier, timeouts: options.timeouts, machine: machine, link: link, peer: peer, logger: logger,
            record: options.recordLedger, onVoid: { weakly.session?.reopen() },
            onTakenBack: { weakly.session?.pager?.cancel($0) })
        pager = try paging.map { [driver, memory] paging in
            try DestinationPager(
                paging: paging, pageCounts: regions.map(\.pageCount), hashes: memory.hashes, timeouts: options.timeouts,
                logger: logger,
                stopVM: {
                    do { _ = try machine.pause() } catch { logger.error("the VM could not be stopped: \(error)") }
                }, isRunning: { driver.situation.read { $0.isRunning } },
                onComplete: { times in
                    driver.sendTimes(times)
                    driver.submit(.memoryComplete)
                })
        }
        weakly.session = self
    }

    /// The control connection stands (again).
    func attach(_ connection: Connection, writer: RecordWriter, reader: ReaderHandle) throws {
        try link.attach(connection, writer: writer, reader: reader)
        if let error = unsaid.withLock({ $0 }) { giveUp(error) }
    }

    /// Checks that a lane belongs here.
    /// - Throws: `Refusal` for one that does not.
    func verify(_ session: SessionIdentifier, _ secret: [UInt8]) throws {
        guard session == identifier, constantTimeEqual(secret, laneSecret) else {
            throw Refusal(.unknownSession, "the lane does not belong to the session here")
        }
    }

    /// A lane has proved that it belongs here (`verify`).
    /// - Throws: `Refusal` for a lane that is not wanted.
    func join(_ greeting: LaneGreeting, _ connection: Connection, _ reader: consuming RecordReader) throws {
        let index = Int(greeting.lane)
        // The place is taken at once: two connections may claim it at the same time.
        let isMine = claimed.withLock { index < lanesGranted && $0.insert(index).inserted }
        guard isMine else {
            throw Refusal(.protocolError, "lane \(index) was not granted, or is here already")
        }
        connection.setReadTimeout(nil)
        let lane = try DestinationLane(
            index: index, connection: connection, reader: reader, memory: memory,
            onFailure: { [weak self] error in self?.laneFailed(index, error) })
        lanes.update { $0[index] = lane }
    }

    /// A lane for pages that follow the VM has proved that it belongs here.
    /// - Throws: `Refusal` for a lane that is not wanted.
    func join(_ greeting: PagingLaneGreeting, _ connection: Connection, _ reader: consuming RecordReader) throws {
        guard let pager else { throw Refusal(.protocolError, "no pages were to follow this VM") }
        try pager.join(greeting, connection, reader)
    }

    private func laneFailed(_ index: Int, _ error: any Error) {
        // Lanes end in many ways when a session ends; only a stream that is wrong ends the session.
        guard error is StreamError else {
            logger.debug("lane \(index) ended: \(error)")
            return
        }
        giveUp(error)
    }

    /// The source sent what makes no sense: it hears why, and the link ends.
    private func giveUp(_ error: any Error) {
        logger.error("\(error)")
        unsaid.withLock { $0 = error }
        guard link.isAttached else { return }
        unsaid.withLock { $0 = nil }
        link.send(.refusal(Refusal(.protocolError, "\(error)")))
        link.close(because: TransportError(.failed, "\(error)"))
    }

    // MARK: - What the control connection brings

    private func take(_ happening: ControlLink.Happening, _ generation: Int) {
        switch happening {
        case .up: driver.submit(.linkUp(generation))
        case .record(let record):
            do { try take(record, generation) } catch { giveUp(error) }
        case .down(let error):
            if error is StreamError, link.isCurrent(generation) { giveUp(error) }
            driver.submit(.linkDown(generation, error))
        }
    }

    private func take(_ record: Record, _ generation: Int) throws {
        switch record {
        case .state(let section):
            try arrived.withLock { arrived in
                // The first section of an attempt: what an earlier one brought is void.
                if arrived.digest != nil { arrived = Arrived(progress: arrived.progress, clock: arrived.clock) }
                arrived.stateBytes += section.bytes.count
                guard arrived.stateBytes <= Self.stateLimit, arrived.sections.count < Self.sectionLimit else {
                    throw StreamError(.tooLarge, "the VM's state is larger than \(Self.stateLimit) bytes")
                }
                arrived.sections.append(section)
            }
        case .digest(let digest): arrived.withLock { $0.digest = digest }
        case .pageSet(let piece) where pager != nil:
            let counts = memory.regions.map(\.pageCount)
            try arrived.withLock { arrived in
                var assembly = arrived.stale ?? PageSetAssembly(pageCounts: counts)
                arrived.stale = nil
                try assembly.take(piece)
                arrived.stale = assembly
            }
        case .handover(let message): driver.submit(.heard(generation, message))
        case .progress(let progress): arrived.withLock { $0.progress = progress }
        case .clock(let clock):
            let now = HostClock.realtimeNanoseconds
            arrived.withLock { $0.clock.hear(clock, atNanoseconds: now) }
        case .end: break
        default: throw StreamError(.unexpected, "a \(record.type) record where none may stand")
        }
    }

    // MARK: - Loading

    /// Waits for the last pages, checks the digest and restores the state.
    /// - Returns: the digest of what arrived; nil if the attempt was called off meanwhile.
    /// - Throws: what keeps the VM from running here.
    func load(_ attempt: AttemptNumber) throws -> MemoryDigest? {
        let driver = driver
        let isCalledOff: @Sendable () -> Bool = { driver.situation.read { $0.loadCalledOff == attempt } }
        let (sections, digest, clock, assembly) = arrived.withLock { ($0.sections, $0.digest, $0.clock, $0.stale) }
        let mode = driver.situation.read { $0.loadMode }
        guard let digest else { throw StreamError(.unexpected, "FINAL came without a digest") }
        guard digest.pageCount == memory.hashes.pageCount else {
            throw StreamError(.invalid, "the digest covers \(digest.pageCount) pages, not \(memory.hashes.pageCount)")
        }
        // A lane that was answered a moment ago may not be in its place yet.
        let granted = lanesGranted
        _ = lanes.wait(until: .now + .seconds(2)) { $0.count == granted || isCalledOff() ? true : nil }
        let all = lanes.read { $0 }
        guard all.count == lanesGranted else {
            throw StreamError(.unexpected, "FINAL came when \(all.count) of \(lanesGranted) lanes were open")
        }
        var shares: [DigestShare] = []
        for lane in all.values {
            guard let share = try lane.close(atEpoch: digest.epoch, isCancelled: isCalledOff) else { return nil }
            shares.append(share)
        }
        driver.stamps.withLock { $0.lastPage = .now }
        if mode == .postCopy {
            return try loadBeforePages(
                attempt, Delivery(sections: sections, stale: assembly, clock: clock), digest, shares)
        }
        let found = memory.hashes.digest(shares + (pager.map { [$0.share] } ?? []))
        // The lanes may be open again: nothing may write memory beside them.
        if isCalledOff() { return nil }
        // A wrong digest is the hand-over's to refuse; the state need not be loaded for it.
        if found == digest.digest { try machine.restoreState(sections, clockOffset: clock.offset) }
        driver.stamps.withLock { $0.loaded = .now }
        return found
    }

    /// What came for an attempt in post-copy.
    private struct Delivery {
        var sections: [StateSection]
        var stale: PageSetAssembly?
        var clock: PeerClock
    }

    /// Loads a VM whose pages follow.
    private func loadBeforePages(
        _ attempt: AttemptNumber, _ delivery: Delivery, _ digest: DigestRecord, _ shares: [DigestShare]
    ) throws -> MemoryDigest? {
        guard let pager, let assembly = delivery.stale, assembly.isComplete, assembly.attempt == attempt else {
            throw StreamError(.unexpected, "FINAL came without saying which pages will follow")
        }
        let stale = assembly.sets
        pager.takeBack(stale)
        let found = PostCopyDigest.digest(
            memory: memory.hashes.digest(shares + [pager.share]), state: delivery.sections, stale: stale)
        guard found == digest.digest else { return found }
        // Loading touches memory, so that pages are asked for from here on.
        guard try pager.begin(attempt, stale: stale, baseShares: shares) else { return nil }
        try machine.restoreState(delivery.sections, clockOffset: delivery.clock.offset)
        driver.stamps.withLock { $0.loaded = .now }
        return found
    }

    /// No page comes before the VM runs here: all of memory may go missing now, and not while the VM stands.
    func forgetMemory() throws { try pager?.clear(pageCounts: memory.regions.map(\.pageCount)) }

    /// Nobody will touch the VM's memory any more.
    func forgetPages() {
        guard let pager, pager.pagesMissing != nil else { return }
        pager.end()
        driver.submit(.memoryComplete)
    }

    /// An attempt was taken back: pages may come again.
    private func reopen() {
        arrived.withLock { $0 = Arrived(progress: $0.progress, clock: $0.clock) }
        for lane in lanes.read({ $0.values }) { lane.open() }
    }

    // MARK: - For people, and the end

    var progress: ReceiveProgress {
        let counts = lanes.read { $0.values.map(\.currentCounts) }.reduce(into: PageCounts()) { $0.add($1) }
        return ReceiveProgress(
            machine: configuration.name, pagesTotal: memory.hashes.pageCount, pagesReceived: counts.pages,
            bytesReceived: counts.bytes, round: arrived.withLock { $0.progress.map { Int($0.round) } },
            isRunning: driver.situation.read { $0.isRunning }, pagesMissing: pager?.pagesMissing,
            doubt: driver.situation.read { $0.doubt?.explanation } ?? pager?.trouble)
    }

    /// Ends all threads of the session. Not from one of them.
    func end() {
        for lane in lanes.read({ $0.values }) { lane.leave() }
        pager?.end()
        link.end(because: TransportError(.shutDown, "the session is over"))
        driver.end()
    }
}

/// Breaks the circle between a session and what calls it back.
private final class WeakSession: Sendable {
    private let box = Mutex<WeakBox>(WeakBox())

    private struct WeakBox: Sendable {
        weak var session: ReceiverSession?
    }

    var session: ReceiverSession? {
        get { box.withLock { $0.session } }
        set { box.withLock { $0.session = newValue } }
    }
}

/// Compares secrets without telling by time where they differ.
func constantTimeEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool {
    guard a.count == b.count else { return false }
    return zip(a, b).reduce(UInt8(0)) { $0 | ($1.0 ^ $1.1) } == 0
}
