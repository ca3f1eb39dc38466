/// The destination's connections for pages: opened by the source, again and again if need be; and the watch over them.

import DirtyLog
import Logging
import Synchronization
import Units

extension DestinationPager {
    /// A connection has proved that it belongs to the session.
    /// - Throws: `Refusal` for one that is not wanted.
    func join(_ greeting: PagingLaneGreeting, _ connection: Connection, _ reader: consuming RecordReader) throws {
        connection.setReadTimeout(nil)
        // A source that reads nothing is gone.
        connection.setWriteTimeout(timeouts.silence)
        guard greeting.lane == 0 else { return try addLane(greeting, connection, reader) }
        do {
            try openGeneration(greeting.generation, connection, reader)
        } catch {
            if !(error is Refusal) { lost(greeting.generation, error) }
            throw error
        }
    }

    /// The urgent lane comes first. It hears which pages are missing, if the VM was handed over already.
    private func openGeneration(
        _ generation: UInt32, _ connection: Connection, _ reader: consuming RecordReader
    ) throws {
        let lane = makeLane(0, generation, connection, reader)
        try lifecycle.withLock { _ in
            let old: [DestinationPagingLane] = try state.update { state in
                guard generation > state.generation, !state.hasEnded else {
                    throw Refusal(.protocolError, "paging lanes of generation \(generation) are void")
                }
                state.generation = generation
                state.isBroken = false
                defer { state.lanes = [lane] }
                return state.lanes
            }
            urgent.withLock { $0 = nil }
            // What they still bring is not waited for: it is asked for anew.
            for lane in old { lane.leave(because: "new lanes took their place") }
            let (phase, attempt) = state.read { ($0.phase, $0.attempt) }
            let isActive = phase == .active
            let sets = isActive ? missing.map(\.snapshot) : []
            let opening: [Record] =
                [.laneReady(0)] + PageSetRecord.records(of: sets, attempt: isActive ? attempt : AttemptNumber(0))
            let link = try PageRequestLink(connection, opening: opening)
            lastArrival.store(MonotonicInstant.now.nanoseconds, ordering: .relaxed)
            try lane.start()
            try urgent.withLock { current in
                current = link
                // Those that wait already. A fault that is noted from now on finds the link.
                for (region, claims) in wanted.enumerated() {
                    try claims.snapshot.forEachRun { run in
                        for page in run.start.rawValue..<run.end.rawValue where missing[region].contains(page) {
                            try link.request(region: region, page: page)
                        }
                    }
                }
            }
            state.update { state in
                if state.generation == generation, !state.isBroken {
                    state.outageSince = nil
                    state.trouble = nil
                }
            }
            if generation > 1, isActive { logger.notice("pages come again") }
        }
    }

    private func addLane(
        _ greeting: PagingLaneGreeting, _ connection: Connection, _ reader: consuming RecordReader
    ) throws {
        let lane = makeLane(Int(greeting.lane), greeting.generation, connection, reader)
        let isWanted = state.update { state in
            guard state.generation == greeting.generation, !state.isBroken, !state.hasEnded,
                !state.lanes.contains(where: { $0.index == lane.index })
            else { return false }
            state.lanes.append(lane)
            return true
        }
        guard isWanted else { throw Refusal(.protocolError, "paging lane \(greeting.lane) is not wanted") }
        var framer: RecordFramer
        let header = StreamHeader()
        framer = RecordFramer(header)
        try connection.write(header.bytes + framer.frame(.laneReady(greeting.lane)))
        try lane.start()
    }

    private func makeLane(
        _ index: Int, _ generation: UInt32, _ connection: Connection, _ reader: consuming RecordReader
    ) -> DestinationPagingLane {
        unsafe DestinationPagingLane(
            index: index, connection: connection, reader: reader,
            install: { [weak self] head, contents, hashes in
                unsafe try self?.install(head, contents, hashes, isUrgent: index == 0, generation: generation) ?? 0
            },
            heardServed: { [weak self] in try self?.heard($0) },
            onEnd: { [weak self] in self?.lost(generation, $0) })
    }

    private func heard(_ served: ServedRecord) throws {
        try state.update { state in
            guard state.phase == .active, served.attempt == state.attempt,
                served.pageCount == hashes.pageCount
            else { throw StreamError(.unexpected, "SERVED of attempt \(served.attempt.rawValue) came") }
            state.served = served
        }
    }

    /// A lane has ended: the others end as well, so that the source notices, and opens them all again.
    private func lost(_ generation: UInt32, _ error: any Error) {
        let lanes: [DestinationPagingLane]? = state.update { state in
            guard state.generation == generation, !state.isBroken, !state.hasEnded else { return nil }
            state.isBroken = true
            guard state.phase == .active else { return state.lanes }
            state.interruptions += 1
            state.outageSince = .now
            return state.lanes
        }
        guard let lanes else { return }
        urgent.withLock { $0 = nil }
        for lane in lanes { lane.connection.shutDown(because: TransportError(.closed, "\(error)")) }
        if state.read({ $0.phase == .active }) {
            logger.warning("pages have stopped coming, and are waited for: \(error)")
        } else {
            logger.debug("a paging lane ended: \(error)")
        }
    }

    // MARK: - Over time

    private enum Step { case end, complete, look }

    func watch() {
        var isAnnounced = false
        while true {
            let step: Step =
                state.wait(until: .now + .milliseconds(200)) { state in
                    if state.hasEnded { return .end }
                    if state.phase == .active, state.served != nil,
                        self.absent.load(ordering: .sequentiallyConsistent) == 0
                    {
                        return .complete
                    }
                    return nil
                } ?? .look
            switch step {
            case .end: return
            case .complete:
                isAnnounced = false
                complete()
            case .look: look()
            }
            if !isAnnounced, state.read({ $0.phase == .complete }), isRunning() {
                isAnnounced = true
                onComplete(times.withLock { $0.histogram.times })
            }
        }
    }

    /// Every page has come. Compares what came with what was sent.
    private func complete() {
        lifecycle.withLock { _ in
            let (phase, served, shares) = state.read { ($0.phase, $0.served, $0.baseShares) }
            guard phase == .active, let served else { return }
            let found = hashes.digest(shares + [share])
            guard found == served.digest else {
                stopVM()
                let trouble =
                    "the memory that came is not the memory that was sent: the VM was stopped, and must not run on"
                logger.critical("\(trouble)")
                return state.update { state in
                    state.phase = .failed
                    state.trouble = trouble
                }
            }
            do { try paging.disarm() } catch { logger.error("memory is still paged: \(error)") }
            state.update { state in
                state.phase = .complete
                state.completed = .now
                state.outageSince = nil
                state.trouble = nil
            }
        }
    }

    /// Lanes that bring nothing although somebody waits are given up; an outage that lasts is told.
    private func look() {
        let (phase, generation, isBroken, isServed, outage, trouble) = state.read {
            ($0.phase, $0.generation, $0.isBroken, $0.served != nil, $0.outageSince, $0.trouble)
        }
        guard phase == .active else { return }
        let left = absent.load(ordering: .sequentiallyConsistent)
        let last = MonotonicInstant(nanoseconds: lastArrival.load(ordering: .relaxed))
        if !isBroken, left > 0, .now - last > timeouts.silence, isServed || times.withLock({ $0.waiting > 0 }) {
            lost(generation, TransportError(.timedOut, "no page came for \(timeouts.silence)"))
        }
        guard let outage, .now - outage > timeouts.doubt, trouble == nil else { return }
        let text =
            "the source is silent, and \(left) pages of the VM are still there: what needs them stands still until it comes "
            + "back; if it is dead for good, the VM is lost and can only be stopped"
        logger.error("\(text)")
        state.update { $0.trouble = $0.trouble ?? text }
    }
}
