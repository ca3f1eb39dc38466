/// Post-copy at the source: serves the pages of a VM that runs elsewhere, over lanes that are opened again whenever they
/// break, until the destination has them all.

import DirtyLog
import Glibc
import Logging
import Synchronization
import Units

final class PageServer: Sendable {
    /// The pages that one attempt leaves behind.
    struct Job: Sendable {
        var attempt: AttemptNumber
        var stale: [PageSet]
        /// Shares of the digest from before.
        var shares: [DigestShare]
    }

    private struct State: Sendable {
        var job: Job?
        var isServing = false
        var hasEnded = false
        var generation: UInt32 = 0
        var lanes: ServingLanes?
        /// `lanes` were connected and have not served yet.
        var isFresh = false
        /// Of lanes that are gone.
        var past = ServingCounts()
        var interruptions = 0
        var lastError: String?
        /// Since when no lane stands.
        var outageSince: MonotonicInstant?
    }

    private let context: ServingContext
    private let logger: Logger
    private let state: Monitor<State>
    private let thread = Mutex<PlainThread?>(nil)

    init(
        machine: any MigratableMachine, hashes: PageHashes, limiter: BandwidthLimiter, session: SourceSession,
        destination: Endpoint, stall: Duration, logger: Logger
    ) throws {
        let state = Monitor(State())
        self.state = state
        self.logger = logger
        context = ServingContext(
            machine: machine, hashes: hashes, limiter: limiter, session: session.identifier, secret: session.laneSecret,
            destination: destination, pushLanes: min(session.lanesGranted, 2), stall: stall,
            isEnded: { state.read { $0.hasEnded } })
        let started = try PlainThread(name: "page-server") { [self] in work() }
        thread.withLock { $0 = started }
    }

    /// Connects the lanes, so that they stand when the VM is stopped. While nothing is served.
    func connect() throws {
        // Lanes of an attempt that failed are on their way out.
        let isConnected = state.wait(until: .now + .seconds(5)) { $0.lanes == nil ? false : $0.isFresh ? true : nil }
        guard isConnected != true else { return }
        let lanes = try ServingLanes(context, generation: nextGeneration())
        state.update { state in
            state.lanes = lanes
            state.isFresh = true
        }
    }

    private func nextGeneration() -> UInt32 {
        state.update { state in
            state.generation &+= 1
            return state.generation
        }
    }

    /// What `start` will serve.
    func prepare(_ job: Job) { state.update { $0.job = job } }

    /// Serves from now on.
    func start() { state.update { $0.isServing = $0.job != nil } }

    /// Serves no more: the destination has everything, or the VM runs here again.
    func stop() {
        let lanes: ServingLanes? = state.update { state in
            guard state.isServing else { return nil }
            state.isServing = false
            return state.lanes
        }
        lanes?.interrupt(because: TransportError(.shutDown, "no pages are served any more"))
    }

    /// The destination was silent for too long, or its control connection broke: the lanes are opened anew.
    func reconnect(because error: any Error) {
        guard state.read({ $0.isServing }) else { return }
        state.read { $0.lanes }?.interrupt(because: error)
    }

    /// Ends the threads.
    func end() {
        stop()
        state.update { $0.hasEnded = true }
        thread.withLock { thread in
            defer { thread = nil }
            return thread
        }?.join()
        dropLanes()
    }

    // MARK: - For people

    struct Progress: Sendable {
        var counts: ServingCounts
        var remaining: Int
        var interruptions: Int
        var trouble: String?
    }

    var progress: Progress {
        let (past, lanes, job, interruptions, lastError, outage) = state.read {
            ($0.past, $0.lanes, $0.job, $0.interruptions, $0.lastError, $0.outageSince)
        }
        var counts = past
        if let lanes { counts.add(lanes.counts) }
        let remaining = lanes?.remaining ?? job?.stale.reduce(0) { $0 + $1.count } ?? 0
        return Progress(
            counts: counts, remaining: remaining, interruptions: interruptions,
            trouble: outage == nil ? nil : lastError)
    }

    /// What served pages changed of the digest.
    var share: DigestShare { progress.counts.share }

    // MARK: - The server's thread

    private func work() {
        var pause: UInt32 = 50_000
        while let job = nextJob() {
            let begun = MonotonicInstant.now
            do {
                try serve(job)
            } catch {
                let isServing: Bool = state.update { state in
                    guard state.isServing, !state.hasEnded else { return false }
                    if state.outageSince == nil {
                        state.interruptions += 1
                        state.outageSince = .now
                    }
                    state.lastError = "\(error)"
                    return true
                }
                if isServing { logger.warning("pages are not served: \(error)") }
            }
            dropLanes()
            // Lanes that served for a while have earned a quick try.
            if .now - begun > .seconds(1) { pause = 50_000 }
            if state.read({ $0.isServing && !$0.hasEnded }) {
                usleep(pause)
                pause = min(pause * 2, 1_000_000)
            }
        }
    }

    /// Waits for work; nil at the end.
    private func nextJob() -> Job? {
        let job: Job?? = state.wait { state in
            if state.hasEnded { return .some(nil) }
            guard state.isServing, let job = state.job else { return nil }
            return .some(job)
        }
        return job ?? nil
    }

    private func dropLanes() {
        guard let lanes = state.read({ $0.lanes }) else { return }
        lanes.close()
        state.update { state in
            state.past.add(lanes.counts)
            state.lanes = nil
        }
    }

    /// Serves over one generation of lanes, until they fail or nothing is to be served any more.
    private func serve(_ job: Job) throws {
        if state.read({ $0.lanes }) == nil {
            let lanes = try ServingLanes(context, generation: nextGeneration())
            state.update { $0.lanes = lanes }
        }
        let current = state.update { state in
            state.isFresh = false
            return state.lanes
        }
        guard let lanes = current else { return }
        let isKnown = lanes.reported.attempt == job.attempt
        try lanes.start(isKnown ? lanes.reported.sets : job.stale)
        if state.update({ state in
            defer { state.outageSince = nil }
            return state.outageSince != nil
        }) {
            logger.notice("pages are served again")
        }
        var isServed = false
        while true {
            let (failure, isDone): ((any Error)?, Bool) = lanes.status.read { ($0.failure, $0.pushing == 0) }
            if let failure { throw failure }
            guard state.read({ $0.isServing && !$0.hasEnded }) else { return }
            if isDone, !isServed {
                isServed = true
                let past = state.read { $0.past.share }
                try lanes.sendServed { share in
                    ServedRecord(
                        attempt: job.attempt, pageCount: context.hashes.pageCount,
                        digest: context.hashes.digest(job.shares + [past, share]))
                }
            }
            _ = lanes.status.wait(until: .now + .milliseconds(100)) { [isServed] status in
                status.failure != nil || (status.pushing == 0 && !isServed) || status.isClosing ? true : nil
            }
        }
    }
}
