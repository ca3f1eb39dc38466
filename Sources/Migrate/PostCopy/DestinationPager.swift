/// Post-copy at the destination: faults are asked for, pages that come are checked and installed, each once.
///
/// Three kinds of threads: one that reads faults and asks for pages, one for each connection that brings pages, and one that
/// watches over time. None of them touches guest memory, or waits for a thread that does.

import DirtyLog
import Logging
import Synchronization
import Units

final class DestinationPager: Sendable {
    enum Phase: Sendable {
        case idle
        /// Pages follow.
        case active
        /// Every page is here and checked.
        case complete
        /// What came is not what was sent; the VM was stopped.
        case failed
    }

    struct State: Sendable {
        var phase = Phase.idle
        var attempt = AttemptNumber(0)
        /// Attempts up to this one were taken back.
        var cancelled = AttemptNumber(0)
        /// Shares of the digest that do not change any more.
        var baseShares: [DigestShare] = []
        var served: ServedRecord?
        var generation: UInt32 = 0
        var lanes: [DestinationPagingLane] = []
        /// The lanes of this generation have failed.
        var isBroken = true
        /// Since when no lane stands, while pages are missing.
        var outageSince: MonotonicInstant?
        var interruptions = 0
        /// Why it stands still, and what to do.
        var trouble: String?
        var begun: MonotonicInstant?
        var completed: MonotonicInstant?
        var hasEnded = false
    }

    let paging: any MemoryPaging
    let logger: Logger
    let hashes: PageHashes
    let state = Monitor(State())
    /// Pages that have not come.
    let missing: [PageClaims]
    /// Of these, pages that were asked for.
    let wanted: [PageClaims]
    let absent = Atomic<Int>(0)
    /// What installed pages, and pages taken back, changed of the digest.
    let shareSum = Atomic<UInt64>(0)
    let urgent = Mutex<PageRequestLink?>(nil)
    let times = Mutex(FaultTimes())
    let lastArrival = Atomic<UInt64>(0)
    let pushed = Atomic<UInt64>(0)
    let demanded = Atomic<UInt64>(0)
    let repeated = Atomic<UInt64>(0)
    let timeouts: HandOverTimeouts
    /// Held by whoever begins, takes back, or opens lanes: one of these at a time.
    let lifecycle = Mutex<Void>(())
    private let stopsFaults = Atomic<Bool>(false)
    private let faultThread = Mutex<PlainThread?>(nil)
    private let watchThread = Mutex<PlainThread?>(nil)
    /// Stops the VM, whose memory is wrong.
    let stopVM: @Sendable () -> Void
    /// Whether the VM was started; then INSTALLED may be said.
    let isRunning: @Sendable () -> Bool
    /// Every page is here.
    let onComplete: @Sendable (PagingTimes) -> Void

    init(
        paging: any MemoryPaging, pageCounts: [Int], hashes: PageHashes, timeouts: HandOverTimeouts, logger: Logger,
        stopVM: @escaping @Sendable () -> Void, isRunning: @escaping @Sendable () -> Bool,
        onComplete: @escaping @Sendable (PagingTimes) -> Void
    ) throws {
        self.paging = paging
        self.hashes = hashes
        self.timeouts = timeouts
        self.logger = logger
        self.stopVM = stopVM
        self.isRunning = isRunning
        self.onComplete = onComplete
        missing = pageCounts.map { PageClaims(pageCount: $0) }
        wanted = pageCounts.map { PageClaims(pageCount: $0) }
        let watch = try PlainThread(name: "paging-watch") { [self] in self.watch() }
        watchThread.withLock { $0 = watch }
    }

    /// Makes every page missing-to-be: none has come yet, and none will before the switch.
    func clear(pageCounts: [Int]) throws {
        for (region, count) in pageCounts.enumerated() where count > 0 {
            try paging.discard(region: region, run: PageRun(start: PageIndex(0), count: count))
        }
    }

    // MARK: - An attempt

    /// The VM stands still at the source, and `stale` are the pages that will follow: from now on they are asked for.
    /// - Returns: false if the attempt was taken back before.
    func begin(_ attempt: AttemptNumber, stale: [PageSet], baseShares: [DigestShare]) throws -> Bool {
        try lifecycle.withLock { _ in
            guard state.read({ $0.cancelled < attempt && !$0.hasEnded }) else { return false }
            try paging.arm()
            for (claims, set) in zip(missing, stale) { claims.fill(set) }
            for claims in wanted { claims.fill(nil) }
            times.withLock { $0.forgetWaiting() }
            absent.store(stale.reduce(0) { $0 + $1.count }, ordering: .sequentiallyConsistent)
            lastArrival.store(MonotonicInstant.now.nanoseconds, ordering: .relaxed)
            // Before a page is missing: loading the state touches memory.
            try startFaults()
            do {
                for (region, set) in stale.enumerated() {
                    try set.forEachRun { try paging.discard(region: region, run: $0) }
                }
            } catch {
                stopFaults()
                try? paging.disarm()
                throw error
            }
            state.update { state in
                state.phase = .active
                state.attempt = attempt
                state.baseShares = baseShares
                state.served = nil
                state.begun = .now
                state.completed = nil
                if state.isBroken { state.outageSince = state.outageSince ?? .now }
            }
            return true
        }
    }

    /// The attempt was taken back, and the VM will not run from it: who waits for a page goes on, with zeros, as which
    /// missing pages are counted.
    func cancel(_ attempt: AttemptNumber) {
        lifecycle.withLock { _ in
            let lanes: [DestinationPagingLane]? = state.update { state in
                state.cancelled = max(state.cancelled, attempt)
                guard state.phase != .idle, state.attempt <= attempt else { return nil }
                state.phase = .idle
                state.trouble = nil
                state.outageSince = nil
                state.isBroken = true
                defer { state.lanes = [] }
                return state.lanes
            }
            guard let lanes else { return }
            urgent.withLock { $0 = nil }
            for lane in lanes { lane.leave(because: "the attempt was taken back") }
            stopFaults()
            for claims in missing { claims.fill(nil) }
            absent.store(0, ordering: .sequentiallyConsistent)
            do { try paging.disarm() } catch { logger.error("memory is still paged: \(error)") }
        }
    }

    /// What changed of the digest since the pages came over the ordinary lanes.
    var share: DigestShare {
        var share = DigestShare()
        share.sum = shareSum.load(ordering: .sequentiallyConsistent)
        return share
    }

    /// Pages that have not come; nil while none are to.
    var pagesMissing: UInt64? {
        let phase = state.read { $0.phase }
        guard phase == .active || phase == .failed else { return nil }
        return UInt64(max(absent.load(ordering: .relaxed), 0))
    }

    /// Why the VM stands still, if it does for long.
    var trouble: String? { state.read { $0.trouble } }

    /// Counts the pages that will follow as zeros.
    func takeBack(_ stale: [PageSet]) {
        var share = DigestShare()
        PostCopyDigest.takeBack(stale, from: hashes, share: &share)
        shareSum.wrappingAdd(share.sum, ordering: .sequentiallyConsistent)
    }

    /// Ends the threads. The userfaultfd stays as it is: a VM that still misses pages must go on waiting.
    func end() {
        let lanes = state.update { state in
            state.hasEnded = true
            defer { state.lanes = [] }
            return state.lanes
        }
        urgent.withLock { $0 = nil }
        for lane in lanes { lane.leave(because: "the session is over") }
        stopFaults()
        watchThread.withLock { thread in
            defer { thread = nil }
            return thread
        }?.join()
    }

    // MARK: - Faults

    private func startFaults() throws {
        stopFaults()
        stopsFaults.store(false, ordering: .sequentiallyConsistent)
        let thread = try PlainThread(name: "faults") { [self] in serveFaults() }
        faultThread.withLock { $0 = thread }
    }

    private func stopFaults() {
        guard
            let thread = faultThread.withLock({ thread in
                defer { thread = nil }
                return thread
            })
        else { return }
        stopsFaults.store(true, ordering: .sequentiallyConsistent)
        paging.interrupt()
        thread.join()
        paging.clearInterruption()
    }

    private func serveFaults() {
        let pages = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: 64)
        defer { unsafe pages.deallocate() }
        while !stopsFaults.load(ordering: .sequentiallyConsistent) {
            do {
                let count = try unsafe paging.awaitFaults(into: pages, timeoutMilliseconds: 1000)
                for i in 0..<count { ask(for: unsafe pages[i]) }
            } catch {
                state.update { $0.trouble = "the guest's faults cannot be read (\(error)): its VM stands still" }
                return
            }
        }
    }

    /// Allocates nothing, and waits for nobody who may wait for a page.
    private func ask(for number: UInt64) {
        let (region, page) = (Int(number >> 48), Int(number & 0xFFFF_FFFF_FFFF))
        guard region < missing.count else { return }
        guard missing[region].contains(page) else {
            // It came meanwhile.
            try? paging.wake(region: region, run: PageRun(start: PageIndex(page), count: 1))
            return
        }
        guard wanted[region].insert(page) else { return }
        times.withLock { $0.begin(number, at: MonotonicInstant.now.nanoseconds) }
        // What came between the two was not seen as wanted.
        if !missing[region].contains(page), wanted[region].take(page) {
            times.withLock { $0.end(number, at: MonotonicInstant.now.nanoseconds) }
            return
        }
        // A link that fails is noticed by its reader; the page is asked for again on the next one.
        urgent.withLock { link in try? link?.request(region: region, page: page) }
    }

    // MARK: - Pages

    /// Installs pages whose contents were checked.
    func install(
        _ head: PageHead, _ contents: UnsafeRawPointer, _ hashes: UnsafeBufferPointer<UInt64>, isUrgent: Bool,
        generation: UInt32
    ) throws -> Int {
        let run = head.run
        guard head.region < missing.count, run.end.rawValue <= missing[head.region].pageCount else {
            throw StreamError(
                .invalid,
                "pages \(run.start.rawValue) to \(run.end.rawValue) of region \(head.region) lie outside of the VM's memory"
            )
        }
        // The source pushes from FINAL on, which comes over another connection.
        let isWanted: Bool? = state.wait { state in
            if state.generation != generation || state.isBroken || state.hasEnded { return false }
            return state.phase == .idle ? nil : true
        }
        guard isWanted == true else { throw TransportError(.shutDown, "the lane is void") }
        var share = DigestShare()
        var installed = 0
        defer {
            shareSum.wrappingAdd(share.sum, ordering: .sequentiallyConsistent)
            lastArrival.store(MonotonicInstant.now.nanoseconds, ordering: .relaxed)
            if isUrgent {
                demanded.wrappingAdd(UInt64(installed), ordering: .relaxed)
            } else {
                pushed.wrappingAdd(UInt64(installed), ordering: .relaxed)
            }
            repeated.wrappingAdd(UInt64(max(run.count - installed, 0)), ordering: .relaxed)
            let left = absent.subtract(installed, ordering: .sequentiallyConsistent).newValue
            if left == 0, installed > 0 { state.update { _ in } }
        }
        try PageClaims.forEachWord(of: run) { word, mask in
            let mine = missing[head.region].take(word: word, mask: mask)
            do {
                try PageClaims.forEachRun(word: word, mask: mine) { part in
                    try unsafe fill(part, head, contents, hashes, &share)
                }
            } catch {
                missing[head.region].put(word: word, mask: mine)
                throw error
            }
            installed += mine.nonzeroBitCount
            noteArrivals(head.region, word, mine)
        }
        return installed
    }

    private func fill(
        _ part: PageRun, _ head: PageHead, _ contents: UnsafeRawPointer, _ pageHashes: UnsafeBufferPointer<UInt64>,
        _ share: inout DigestShare
    ) throws {
        let first = part.start.rawValue - head.run.start.rawValue
        switch head.encoding {
        case .raw:
            try unsafe paging.install(
                region: head.region, run: part, from: contents + first * pageByteCount)
            for i in 0..<part.count {
                unsafe hashes.store(
                    pageHashes[first + i], region: head.region, page: part.start.rawValue + i, share: &share)
            }
        case .zero:
            try paging.installZeros(region: head.region, run: part)
            for i in 0..<part.count {
                _ = hashes.storeZero(region: head.region, page: part.start.rawValue + i, share: &share)
            }
        }
    }

    /// Ends the clocks of those that somebody waited for.
    private func noteArrivals(_ region: Int, _ word: Int, _ mask: UInt64) {
        var bits = wanted[region].take(word: word, mask: mask)
        while bits != 0 {
            let page = word << 6 + bits.trailingZeroBitCount
            bits &= bits - 1
            times.withLock { $0.end(UInt64(region) << 48 | UInt64(page), at: MonotonicInstant.now.nanoseconds) }
        }
    }
}
