/// The source's connections for pages, of one generation: one that answers requests, and some that push the rest.

import DirtyLog
import Glibc
import Synchronization
import Units

/// What all generations share.
struct ServingContext: Sendable {
    let machine: any MigratableMachine
    let hashes: PageHashes
    let limiter: BandwidthLimiter
    let session: SessionIdentifier
    let secret: [UInt8]
    let destination: Endpoint
    let pushLanes: Int
    /// A destination that takes nothing for so long is gone.
    let stall: Duration
    let isEnded: @Sendable () -> Bool
}

/// What went out after the switch.
struct ServingCounts: Sendable {
    var counts = PageCounts()
    /// Pages that were asked for, and sent at once.
    var demanded: UInt64 = 0
    /// Pages pushed since faults were near.
    var prefetched: UInt64 = 0
    /// Pages that were asked for while they were on their way.
    var again: UInt64 = 0
    var share = DigestShare()

    mutating func add(_ other: ServingCounts) {
        counts.add(other.counts)
        demanded += other.demanded
        prefetched += other.prefetched
        again += other.again
        share.sum &+= other.share.sum
    }
}

/// A connection and its writer. One thread at a time.
final class PagingConnection: @unchecked Sendable {
    let connection: Connection
    var writer: PageWriter
    fileprivate var reader: RecordReader

    /// Connects, and waits until the destination has accepted the lane.
    init(_ context: ServingContext, lane: Int, generation: UInt32) throws {
        let connection = try Connection.connect(to: context.destination)
        connection.setLaneBuffers()
        connection.setReadTimeout(.seconds(5))
        connection.setWriteTimeout(.seconds(5))
        let greeting = PagingLaneGreeting(
            session: context.session, lane: UInt16(lane), generation: generation, secret: context.secret)
        let writer = try PageWriter(connection, greeting: .pagingLane(greeting), recorder: nil)
        var reader = RecordReader(connection)
        _ = try reader.readStreamHeader()
        switch try reader.next() {
        case .record(.laneReady(let ready)) where Int(ready) == lane: break
        case .record(.refusal(let refusal)): throw refusal
        case nil: throw connection.endOfInput()
        default: throw StreamError(.unexpected, "the destination did not answer paging lane \(lane) with LANE-READY")
        }
        self.connection = connection
        self.writer = writer
        self.reader = reader
    }

    fileprivate func next() throws -> Record? {
        switch try reader.next() {
        case .record(let record): record
        case nil: nil
        case .pages: throw StreamError(.unexpected, "pages on the source's side of a paging lane")
        }
    }
}

final class ServingLanes: Sendable {
    struct Status: Sendable {
        var pushing = 0
        var failure: (any Error)?
        var isClosing = false
        var counts = ServingCounts()
    }

    let generation: UInt32
    /// What the destination misses, if it was handed the VM already.
    let reported: PageSetAssembly
    let status = Monitor(Status())
    private let context: ServingContext
    private let urgent: PagingConnection
    private let pushers: [PagingConnection]
    /// Held by whoever writes to the urgent lane.
    private let answering = Mutex(ServingCounts())
    /// A copy for people, who must not wait behind a link that takes nothing.
    private let answered = Mutex(ServingCounts())
    private let left: [PageClaims]
    private let prefetcher = Mutex(Prefetcher())
    /// Words of all regions, one after the other, that pushing has come to.
    private let cursor = Atomic<Int>(0)
    private let threads = Mutex<[PlainThread]>([])

    /// Connects all lanes.
    init(_ context: ServingContext, generation: UInt32) throws {
        self.context = context
        self.generation = generation
        let counts = context.machine.memory.map(\.pageCount)
        left = counts.map { PageClaims(pageCount: $0) }
        urgent = try PagingConnection(context, lane: 0, generation: generation)
        var assembly = PageSetAssembly(pageCounts: counts)
        while !assembly.isComplete {
            guard case .pageSet(let piece)? = try urgent.next() else {
                throw StreamError(.unexpected, "the destination did not say which pages it misses")
            }
            try assembly.take(piece)
        }
        reported = assembly
        var made: [PagingConnection] = []
        for lane in 1...context.pushLanes {
            if context.isEnded() { throw TransportError(.shutDown, "the migration is over") }
            made.append(try PagingConnection(context, lane: lane, generation: generation))
        }
        pushers = made
        for lane in [urgent] + made {
            lane.connection.setWriteTimeout(context.stall)
            lane.connection.setReadTimeout(nil)
        }
    }

    /// Serves these pages: answers requests, and pushes the rest.
    func start(_ pages: [PageSet]) throws {
        for (claims, set) in zip(left, pages) { claims.fill(set) }
        status.update { $0.pushing = pushers.count }
        var started = [try PlainThread(name: "serve") { [self] in answer() }]
        threads.withLock { $0 = started }
        for pusher in pushers {
            started.append(try PlainThread(name: "push") { [self] in run(pusher) })
            threads.withLock { [started] in $0 = started }
        }
    }

    /// Pages that were not sent.
    var remaining: Int { left.reduce(0) { $0 + $1.count } }

    /// What went out so far.
    var counts: ServingCounts {
        var sum = status.read { $0.counts }
        sum.add(answered.withLock { $0 })
        return sum
    }

    /// Says that every page was sent. Once no pusher is at work any more.
    func sendServed(_ record: (DigestShare) -> ServedRecord) throws {
        try answering.withLock { mine in
            var sum = status.read { $0.counts }
            sum.add(mine)
            try urgent.writer.send(.served(record(sum.share)))
        }
    }

    /// Ends all connections; the threads end by themselves.
    func interrupt(because error: any Error) {
        let reason = error as? TransportError ?? TransportError(.closed, "\(error)")
        for lane in [urgent] + pushers { lane.connection.shutDown(because: reason) }
    }

    /// Ends everything, and waits for it.
    func close() {
        status.update { $0.isClosing = true }
        interrupt(because: TransportError(.shutDown, "the lanes were closed"))
        let all = threads.withLock { threads in
            defer { threads = [] }
            return threads
        }
        for thread in all { thread.join() }
    }

    private func fail(_ error: any Error) { status.update { $0.failure = $0.failure ?? error } }

    // MARK: - Requests

    private func answer() {
        do {
            while let record = try urgent.next() {
                guard case .pageRequest(let request) = record else {
                    throw StreamError(.unexpected, "a \(record.type) record on the urgent lane")
                }
                try answer(request)
            }
            throw urgent.connection.endOfInput()
        } catch {
            fail(error)
        }
    }

    private func answer(_ request: PageRequest) throws {
        let memory = context.machine.memory
        let number = Int(request.region)
        guard number < memory.count, let first = Int(exactly: request.firstPage),
            first <= memory[number].pageCount, Int(request.count) <= memory[number].pageCount - first
        else { throw StreamError(.invalid, "pages outside of the VM's memory were asked for") }
        try answering.withLock { mine in
            let before = urgent.writer.counts
            for page in first..<first + Int(request.count) {
                let isFirst = left[number].take(page)
                let run = PageRun(start: PageIndex(page), count: 1)
                // A page that a pusher has taken is on its way, behind much else: it is sent once more, and counted once.
                try unsafe urgent.writer.send(
                    run, region: number, base: memory[number].base, hashes: isFirst ? context.hashes : nil,
                    share: &mine.share)
                if isFirst { mine.demanded += 1 } else { mine.again += 1 }
            }
            try urgent.writer.flush()
            mine.counts.add(urgent.writer.counts.since(before))
            answered.withLock { [mine] in $0 = mine }
        }
        prefetcher.withLock { $0.demand(region: number, page: first) }
    }

    // MARK: - Pushing

    private func run(_ pusher: PagingConnection) {
        var mine = ServingCounts()
        do {
            while !status.read({ $0.isClosing || $0.failure != nil }), let piece = nextPiece() {
                let before = pusher.writer.counts
                try push(piece, pusher, &mine)
                let sent = pusher.writer.counts.since(before)
                mine.counts.add(sent)
                context.limiter.account(sent.bytes) { self.status.read { $0.isClosing } }
            }
        } catch {
            fail(error)
        }
        status.update { [mine] status in
            status.counts.add(mine)
            status.pushing -= 1
        }
    }

    private struct Piece {
        var region: Int
        var word: Int
        var mask: UInt64
        var isNearFault: Bool
    }

    /// Takes pages to push: near the latest faults if there are any, else the next ones in order. Nil at the end.
    private func nextPiece() -> Piece? {
        while let suggestion = prefetcher.withLock({ $0.next() }) {
            let (region, word, wanted): (Int, Int, UInt64) =
                switch suggestion {
                case .word(let region, let word): (region, word, .max)
                case .page(let region, let page): (region, page >> 6, 1 << UInt64(page & 63))
                }
            let mask = left[region].take(word: word, mask: wanted)
            if mask != 0 { return Piece(region: region, word: word, mask: mask, isNearFault: true) }
        }
        while true {
            var index = cursor.add(1, ordering: .relaxed).oldValue
            var region = 0
            while region < left.count, index >= left[region].wordCount {
                index -= left[region].wordCount
                region += 1
            }
            guard region < left.count else { return nil }
            let mask = left[region].take(word: index)
            if mask != 0 { return Piece(region: region, word: index, mask: mask, isNearFault: false) }
        }
    }

    private func push(_ piece: Piece, _ pusher: PagingConnection, _ mine: inout ServingCounts) throws {
        let region = context.machine.memory[piece.region]
        var populated: UInt64 = 0
        try unsafe withUnsafeMutablePointer(to: &populated) { pointer in
            try unsafe context.machine.readPopulation(
                region: piece.region, firstPage: PageIndex(piece.word << 6),
                words: UnsafeMutableBufferPointer(start: pointer, count: 1))
        }
        try PageClaims.forEachRun(word: piece.word, mask: piece.mask & ~populated) { run in
            try pusher.writer.sendHole(run, region: piece.region, hashes: context.hashes, share: &mine.share)
        }
        try PageClaims.forEachRun(word: piece.word, mask: piece.mask & populated) { run in
            try unsafe pusher.writer.send(
                run, region: piece.region, base: region.base, hashes: context.hashes, share: &mine.share)
        }
        try pusher.writer.flush()
        if piece.isNearFault { mine.prefetched += UInt64(piece.mask.nonzeroBitCount) }
    }
}

extension PageCounts {
    func since(_ earlier: PageCounts) -> PageCounts {
        PageCounts(
            pages: pages - earlier.pages, zeroPages: zeroPages - earlier.zeroPages, bytes: bytes - earlier.bytes)
    }
}
