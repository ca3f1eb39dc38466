/// A lane at the source: its own connection and thread, and the pages of its own stripes.

import DirtyLog
import Synchronization
import Units

/// What all lanes of a migration share.
struct LaneContext: Sendable {
    let machine: any MigratableMachine
    let tracker: any DirtyTracker
    let hashes: PageHashes
    let plan: LanePlan
    let limiter: BandwidthLimiter
}

/// One pass over pages.
struct LanePass: Sendable {
    /// The pages to send, a set a region.
    var pages: [PageSet]
    /// Ask which pages were ever populated, and send the others as holes without reading them.
    var findsHoles: Bool
    /// The VM stands still: the bandwidth cap does not apply.
    var isPaused: Bool
    /// Protect pages again before they are read. Only where nothing writes any more and the log is not read again can
    /// this be spared: pages that were not protected again are reported again.
    var rearms = true
    /// A marker that follows the pages.
    var epoch: UInt64?
}

/// How far a lane is, readable at any time.
struct LaneProgress: Sendable {
    var counts = PageCounts()
    var share = DigestShare()
}

/// The lane. Its thread works while a pass is under way; between passes the coordinator owns the connection.
final class SourceLane: @unchecked Sendable {
    private enum Work {
        case idle
        case pass(LanePass)
        case leave
    }

    private struct State {
        var work = Work.idle
        var failure: (any Error)?
        var isBusy = false
    }

    let index: Int
    let connection: Connection
    private let context: LaneContext
    private let monitor = Monitor(State())
    private let progress = Mutex(LaneProgress())
    private var writer: PageWriter
    private var reader: RecordReader
    private var share = DigestShare()
    /// Markers sent that the destination has not answered. The lane's thread adds during a pass, the coordinator
    /// takes between passes.
    private var unseen: [LaneEpoch] = []
    private var thread: PlainThread?
    /// Set to stop a pass between two stripes.
    private let stops = Atomic<Bool>(false)
    /// Set to end passes early, and in order.
    private let isCutShort = Atomic<Bool>(false)
    /// Where the last pass was cut short: this stripe of this lane's, and those behind it, were not sent.
    private var cut: (region: Int, stripe: Int)?

    /// Opens the lane: connects it to the session and waits until the destination has accepted it.
    init(
        index: Int, connection: Connection, greeting: LaneGreeting, context: LaneContext, recorder: StreamRecorder?
    ) throws {
        var reader = RecordReader(connection)
        let writer = try PageWriter(connection, greeting: .lane(greeting), recorder: recorder)
        _ = try reader.readStreamHeader()
        switch try reader.next() {
        case .record(.laneReady(let lane)) where Int(lane) == index: break
        case .record(.refusal(let refusal)): throw refusal
        case nil: throw connection.endOfInput()
        default: throw StreamError(.unexpected, "the destination did not answer lane \(index) with LANE-READY")
        }
        self.index = index
        self.connection = connection
        self.context = context
        self.writer = writer
        self.reader = reader
        thread = try PlainThread(name: "lane-\(index)") { [self] in work() }
    }

    /// Pages, bytes and share of the digest so far.
    var currentProgress: LaneProgress { progress.withLock { $0 } }

    /// Begins a pass. The last one has ended.
    func begin(_ pass: LanePass) {
        monitor.update { state in
            state.work = .pass(pass)
            state.isBusy = true
        }
    }

    /// Waits for the end of the pass, for `timeout` at most (for ever without one).
    /// - Returns: false if the pass goes on.
    /// - Throws: what made it fail; the lane is of no use then.
    @discardableResult
    func finishPass(within timeout: Duration? = nil) throws -> Bool {
        let failure: (any Error)?? = monitor.wait(until: timeout.map { .now + $0 }) { state in
            state.isBusy ? nil : .some(state.failure)
        }
        guard let failure else { return false }
        if let failure { throw failure }
        return true
    }

    /// Runs a pass on the caller's thread, while the lane's own thread is idle: a small one is over sooner than the
    /// thread would have woken up.
    func runHere(_ pass: LanePass) throws { try run(pass) }

    /// Waits until the destination has seen `epoch`: every page before it is in its memory.
    func awaitSeen(epoch: UInt64) throws {
        switch try nextAnswer() {
        case .record(.epochSeen(let seen)):
            guard !unseen.isEmpty, seen == unseen.removeFirst(), seen.epoch == epoch else {
                throw StreamError(
                    .invalid, "lane \(index): the destination's count of pages to epoch \(seen.epoch) is not ours")
            }
        case .record(.refusal(let refusal)): throw refusal
        case nil: throw connection.endOfInput()
        default: throw StreamError(.unexpected, "the destination sent something else than EPOCH-SEEN on lane \(index)")
        }
    }

    /// The next record, for as long as the destination still takes what was sent: a slow link is no stuck one.
    private func nextAnswer() throws -> IncomingRecord? {
        var unsent = connection.unsentByteCount
        while true {
            do {
                return try reader.next()
            } catch let error as TransportError where error.code == .timedOut {
                let now = connection.unsentByteCount
                guard now < unsent else { throw error }
                unsent = now
            }
        }
    }

    /// Makes a pass that is under way end soon, leaving pages unsent.
    func interrupt() { stops.store(true, ordering: .relaxed) }

    /// Makes the pass under way, and those to come, end soon and in order: a marker follows what was sent. With
    /// `isWanted` false, passes go on to their end again.
    func cutShort(_ isWanted: Bool = true) { isCutShort.store(isWanted, ordering: .relaxed) }

    /// Whether the last pass was cut short. Between passes.
    var wasCutShort: Bool { cut != nil }

    /// The pages of `set` that the last pass should have sent and did not, as it was cut short. Between passes.
    func unsent(of sets: [PageSet]) -> [PageSet] {
        sets.enumerated().map { number, set in
            var rest = PageSet(pageCount: set.pageCount)
            guard let cut, number >= cut.region else { return rest }
            let stripes = (set.pageCount + pagesPerStripe - 1) / pagesPerStripe
            for stripe in (number == cut.region ? cut.stripe : 0)..<max(stripes, cut.stripe)
            where stripe < stripes && context.plan.lane(region: number, stripe: stripe) == index {
                let first = stripe * pagesPerStripe
                let run = PageRun(start: PageIndex(first), count: min(pagesPerStripe, set.pageCount - first))
                set.forEachRun(in: run) { rest.insert($0) }
            }
            return rest
        }
    }

    /// Ends the thread. With `orderly`, END goes out first.
    func leave(orderly: Bool) {
        if orderly {
            let totals = StreamTotals(records: writer.recordCount, pages: writer.counts.pages)
            try? writer.send(.end(totals))
        }
        connection.shutDown(because: TransportError(.shutDown, "the migration is over"))
        monitor.update { $0.work = .leave }
        thread?.join()
        thread = nil
    }

    // MARK: - The lane's thread

    private func work() {
        while let pass = nextPass() {
            var failure: (any Error)?
            do { try run(pass) } catch { failure = error }
            monitor.update { state in
                state.failure = state.failure ?? failure
                state.isBusy = false
            }
        }
    }

    /// Waits for work; nil when the lane is to leave.
    private func nextPass() -> LanePass? {
        let pass: LanePass?? = monitor.wait { state in
            switch state.work {
            case .idle: return nil
            case .leave: return .some(nil)
            case .pass(let pass):
                state.work = .idle
                return .some(pass)
            }
        }
        return pass ?? nil
    }

    private func run(_ pass: LanePass) throws {
        cut = nil
        regions: for (number, region) in context.machine.memory.enumerated() {
            let set = pass.pages[number]
            let stripes = (region.pageCount + pagesPerStripe - 1) / pagesPerStripe
            for stripe in 0..<stripes where context.plan.lane(region: number, stripe: stripe) == index {
                if stops.load(ordering: .relaxed) { throw TransportError(.shutDown, "the pass was interrupted") }
                // What the stopped VM still lacks is never left out.
                if !pass.isPaused, isCutShort.load(ordering: .relaxed) {
                    cut = (number, stripe)
                    break regions
                }
                try send(stripe: stripe, of: region, number: number, set: set, pass: pass)
            }
        }
        try writer.flush()
        if let epoch = pass.epoch {
            let marker = LaneEpoch(epoch: epoch, pages: writer.counts.pages, zeroPages: writer.counts.zeroPages)
            unseen.append(marker)
            try writer.send(.epoch(marker))
        }
        publish()
    }

    private func publish() {
        let now = LaneProgress(counts: writer.counts, share: share)
        progress.withLock { $0 = now }
    }

    private func send(stripe: Int, of region: MemoryRegion, number: Int, set: PageSet, pass: LanePass) throws {
        let first = PageIndex(stripe * pagesPerStripe)
        var words = StripeWords(set, stripe: stripe)
        guard !words.isEmpty else { return }
        let before = writer.counts.bytes
        // The order that loses nothing (DESIGN section 4): protect again, test population, read.
        if pass.rearms {
            try unsafe words.withWords { try unsafe context.tracker.rearm(region: number, firstPage: first, words: $0) }
        }
        if pass.findsHoles {
            var populated = StripeWords(count: words.count)
            try unsafe populated.withMutableWords { words in
                try unsafe context.machine.readPopulation(region: number, firstPage: first, words: words)
            }
            try words.subtracting(populated).forEachRun(from: first) { run in
                try writer.sendHole(run, region: number, hashes: context.hashes, share: &share)
            }
            words.formIntersection(populated)
        }
        try words.forEachRun(from: first) { run in
            try unsafe writer.send(run, region: number, base: region.base, hashes: context.hashes, share: &share)
        }
        publish()
        if !pass.isPaused {
            context.limiter.account(writer.counts.bytes - before) { stops.load(ordering: .relaxed) }
        }
    }
}
