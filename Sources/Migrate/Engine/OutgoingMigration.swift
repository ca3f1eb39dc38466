/// The sending side of a live migration: what a VMM calls.

import DirtyLog
import Logging
import Synchronization
import Units

/// One migration of one VM. `run` does it; everything else may be called meanwhile, from any thread.
public final class OutgoingMigration: Sendable {
    let machine: any MigratableMachine
    let destination: Endpoint
    let options: MigrationOptions
    let logger: Logger
    let limiter: BandwidthLimiter
    let meter: MigrationMeter
    let wishes = Mutex(Wishes())
    private let hasEnded = Monitor(false)
    let redialling = Mutex(Redialling())

    /// The threads that dial after a break; one is active at a time.
    struct Redialling {
        var isActive = false
        /// Somebody asked for it since the last dialling began.
        var isWanted = false
        var hasEnded = false
        var threads: [PlainThread] = []
    }

    /// What people asked for meanwhile.
    struct Wishes: Sendable {
        var limits: MigrationLimits
        var isCancelled = false
        var driver: SourceHandOverDriver?
        var lanes: [SourceLane] = []
        var connection: Connection?
        var pages: PageServer?
        /// Post-copy now, whatever the policy says.
        var isSwitchWanted = false
        /// Lets go of lanes that a cancel would wait for.
        var freer: PlainThread?

        init() { limits = MigrationLimits() }
    }

    /// - Parameters:
    ///   - machine: runs, and goes on running until the hand-over.
    ///   - destination: where a receiver listens.
    public init(machine: any MigratableMachine, destination: Endpoint, options: MigrationOptions, logger: Logger) {
        self.machine = machine
        self.destination = destination
        self.options = options
        self.logger = logger
        limiter = BandwidthLimiter(bytesPerSecond: options.limits.maxBandwidth)
        meter = MigrationMeter(pagesTotal: machine.memory.reduce(0) { $0 + UInt64($1.pageCount) })
        wishes.withLock { $0.limits = options.limits.withoutThrottle }
    }

    /// Moves the VM. Blocks until it runs at the destination, or runs on here, or a person has decided in doubt. If the
    /// outcome is `completed` or `droppedHere`, the VM here is stopped and must never run again.
    public func run() -> MigrationReport {
        let report = SourceCoordinator(self).run()
        // Nothing of a migration is left when it has ended.
        hasEnded.update { $0 = true }
        wishes.withLock { wishes in
            defer { wishes.freer = nil }
            return wishes.freer
        }?.join()
        return report
    }

    /// Ends the migration with the VM running here; without effect once COMMIT was said (then `false`).
    @discardableResult
    public func cancel() -> Bool {
        let (driver, lanes, connection) = wishes.withLock { wishes in
            wishes.isCancelled = true
            return (wishes.driver, wishes.lanes, wishes.connection)
        }
        for lane in lanes { lane.interrupt() }
        guard let driver else {
            connection?.shutDown(because: TransportError(.shutDown, "the migration was cancelled"))
            return true
        }
        driver.wish(.cancel)
        guard driver.situation.read({ $0.refusedWish != .alreadyCommitted }) else { return false }
        wishes.withLock { wishes in
            guard wishes.freer == nil, !hasEnded.read({ $0 }) else { return }
            // A lane may wait for a peer that takes nothing more. After a second the destination has heard of the cancel, and
            // does not take the lanes' end for a broken link.
            wishes.freer = try? PlainThread(name: "cancel") { [self] in
                if hasEnded.wait(until: .now + .seconds(1), for: { $0 ? true : nil }) == nil {
                    abandonLanes(because: TransportError(.shutDown, "the migration was cancelled"))
                }
            }
        }
        return true
    }

    /// New limits, from now on.
    public func update(limits: MigrationLimits) {
        wishes.withLock { $0.limits = limits.withoutThrottle }
        limiter.setLimit(bytesPerSecond: limits.maxBandwidth)
    }

    /// The limits in force.
    public var limits: MigrationLimits { wishes.withLock { $0.limits } }

    /// A person's decision in doubt.
    /// - Returns: nil if it was taken, or why not.
    public func resolve(_ resolution: HandOverResolution) -> HandOverObjection? {
        guard let driver = wishes.withLock({ $0.driver }) else { return .noDoubt }
        driver.wish(.resolve(resolution))
        return driver.situation.read { $0.refusedWish }
    }

    /// Whether the VM runs here by a person's decision, and the destination, which may be dead, still has to hear it. It
    /// is dialled until it has, or until this process ends.
    public var isKeptHere: Bool { wishes.withLock { $0.driver }?.situation.read { $0.phase == .resolvedHere } ?? false }

    /// What a person may choose from, in doubt; nil while there is nothing to decide.
    public var choices: HandOverChoices? { wishes.withLock { $0.driver }?.choices }

    /// Where it stands.
    public var progress: MigrationProgress {
        let (driver, lanes) = wishes.withLock { ($0.driver, $0.lanes) }
        var counts = lanes.map { $0.currentProgress.counts }
        let paging = wishes.withLock { $0.pages }?.progress
        if let paging { counts.append(paging.counts.counts) }
        var progress = meter.progress(counts: counts, doubt: driver?.situation.read { $0.doubt })
        guard let paging, driver?.situation.read({ $0.phase }) == .serving else { return progress }
        if progress.phase != .doubt { progress.phase = .paging }
        progress.pagesRemaining = UInt64(paging.remaining)
        progress.expectedDowntimeMilliseconds = nil
        progress.note = paging.trouble.map { "the pages wait for the destination: \($0)" }
        return progress
    }

    /// Hands the VM over now, and lets its pages follow, whatever the policy would do.
    /// - Returns: why not, or nil.
    public func switchToPostCopy() -> SwitchObjection? {
        guard options.mode != .preCopy else { return .notAllowed }
        guard wishes.withLock({ $0.driver })?.situation.read({ $0.phase }) == .copying else { return .tooLate }
        let lanes = wishes.withLock { wishes in
            wishes.isSwitchWanted = true
            return wishes.lanes
        }
        for lane in lanes { lane.cutShort() }
        return nil
    }

    /// The control connection is gone: lanes that wait for a dead peer would wait for ever.
    func abandonLanes(because error: any Error) {
        let reason = error as? TransportError ?? TransportError(.closed, "\(error)")
        for lane in wishes.withLock({ $0.lanes }) {
            lane.interrupt()
            lane.connection.shutDown(because: reason)
        }
        wishes.withLock { $0.pages }?.reconnect(because: reason)
    }
}

extension MigrationLimits {
    /// A `MigratableMachine` cannot hold its vCPUs back, so the policy must not count on it.
    fileprivate var withoutThrottle: MigrationLimits {
        var limits = self
        limits.maxThrottle = 0
        return limits
    }
}
