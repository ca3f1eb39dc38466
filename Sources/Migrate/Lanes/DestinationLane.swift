/// A lane at the destination: reads pages straight into guest memory, checks each, and keeps its share of the digest.

import Glibc
import Synchronization
import Units

/// What all lanes of a session write to.
struct DestinationMemory: Sendable {
    let regions: [MemoryRegion]
    let hashes: PageHashes
    let plan: LanePlan
}

/// The lane. Its own thread reads; others ask how far it is.
final class DestinationLane: @unchecked Sendable {
    private struct State {
        /// The last marker read, 0 before the first.
        var epoch: UInt64 = 0
        /// Pages came since that marker.
        var hasNewer = false
        /// Pages may come. Closed while a copy stands ready to run: nothing may change it then.
        var isOpen = true
        var share = DigestShare()
        var counts = PageCounts()
        var failure: (any Error)?
        var hasEnded = false
    }

    let index: Int
    let connection: Connection
    private let memory: DestinationMemory
    private let monitor = Monitor(State())
    private var reader: RecordReader
    private var framer: RecordFramer
    private var thread: PlainThread?
    private var share = DigestShare()
    private var counts = PageCounts()
    private let onFailure: @Sendable (any Error) -> Void

    /// Takes over a connection whose LANE record was read by `reader`, answers it, and starts reading pages.
    init(
        index: Int, connection: Connection, reader: consuming RecordReader, memory: DestinationMemory,
        onFailure: @escaping @Sendable (any Error) -> Void
    ) throws {
        let header = StreamHeader()
        var framer = RecordFramer(header)
        try connection.write(header.bytes + framer.frame(.laneReady(UInt16(index))))
        self.index = index
        self.connection = connection
        self.memory = memory
        self.onFailure = onFailure
        self.framer = framer
        self.reader = reader
        thread = try PlainThread(name: "lane-\(index)") { [self] in work() }
    }

    /// Waits until the lane has read marker `epoch`, and closes it: from then on no page may come.
    /// - Returns: its share of the digest.
    /// - Throws: what ended the lane, or that pages came behind the marker; nil when `isCancelled` says so.
    func close(atEpoch epoch: UInt64, isCancelled: @Sendable () -> Bool) throws -> DigestShare? {
        while !isCancelled() {
            let share: DigestShare?? = try monitor.wait(until: .now + .milliseconds(100)) { state in
                // Asked under the lane's own lock: an attempt is called off before the lanes are opened again, and none
                // may be closed after that.
                if isCancelled() { return .some(nil) }
                if let failure = state.failure { throw failure }
                guard state.epoch >= epoch else {
                    guard !state.hasEnded else { throw self.connection.endOfInput() }
                    return nil
                }
                guard state.epoch == epoch, !state.hasNewer else {
                    throw StreamError(.unexpected, "lane \(self.index): pages came behind the marker of the hand-over")
                }
                state.isOpen = false
                return state.share
            }
            if let share { return share }
        }
        return nil
    }

    /// Lets pages come again, after an attempt that was taken back.
    func open() { monitor.update { $0.isOpen = true } }

    var currentCounts: PageCounts { monitor.read { $0.counts } }

    /// Ends the thread.
    func leave() {
        connection.shutDown(because: TransportError(.shutDown, "the migration is over"))
        thread?.join()
        thread = nil
    }

    // MARK: - The lane's thread

    private func work() {
        do {
            while let record = try reader.next() {
                switch record {
                case .pages(let head): try take(head)
                case .record(.epoch(let epoch)): try mark(epoch)
                case .record(.end(let totals)):
                    guard totals.pages == counts.pages else {
                        throw StreamError(
                            .invalid, "lane \(index): END counts \(totals.pages) pages, \(counts.pages) came")
                    }
                    monitor.update { $0.hasEnded = true }
                    return
                case .record(let other):
                    throw StreamError(.unexpected, "a \(other.type) record on lane \(index)")
                }
            }
            throw connection.endOfInput()
        } catch {
            monitor.update { $0.failure = error }
            onFailure(error)
        }
    }

    private func take(_ head: PageHead) throws {
        let run = head.run
        guard head.region < memory.regions.count, run.end.rawValue <= memory.regions[head.region].pageCount else {
            throw StreamError(
                .invalid,
                "lane \(index): pages \(run.start.rawValue) to \(run.end.rawValue) of region \(head.region) "
                    + "lie outside of the VM's memory")
        }
        let stripe = run.start.stripe
        guard stripe == PageIndex(run.end.rawValue - 1).stripe,
            memory.plan.lane(region: head.region, stripe: stripe) == index
        else {
            throw StreamError(
                .invalid, "lane \(index): page \(run.start.rawValue) of region \(head.region) belongs to another lane")
        }
        try monitor.update { state in
            guard state.isOpen else {
                throw StreamError(.unexpected, "lane \(self.index): pages came after the hand-over had begun")
            }
            state.hasNewer = true
            state.counts = self.counts
        }
        let base = unsafe memory.regions[head.region].base + run.start.byteOffset
        switch head.encoding {
        case .raw:
            let hashes = unsafe reader.pageHashes
            for i in 0..<run.count {
                unsafe memory.hashes.store(
                    hashes[i], region: head.region, page: run.start.rawValue + i, share: &share)
            }
            try unsafe reader.readPages(into: UnsafeMutableRawBufferPointer(start: base, count: run.byteCount))
        case .zero:
            for i in 0..<run.count
            where memory.hashes.storeZero(region: head.region, page: run.start.rawValue + i, share: &share) {
                // It held something else before; a page that never came is a page of zeros already.
                unsafe memset(base + i * pageByteCount, 0, pageByteCount)
            }
            counts.zeroPages += UInt64(run.count)
        }
        counts.pages += UInt64(run.count)
        counts.bytes += UInt64(reader.recordLength)
    }

    private func mark(_ epoch: LaneEpoch) throws {
        let expected = monitor.read { $0.epoch } + 1
        guard epoch.epoch == expected, epoch.pages == counts.pages, epoch.zeroPages == counts.zeroPages else {
            throw StreamError(
                .invalid,
                "lane \(index): marker \(epoch.epoch) counts \(epoch.pages) pages; marker \(expected) with "
                    + "\(counts.pages) pages was expected")
        }
        try connection.write(framer.frame(.epochSeen(epoch)))
        monitor.update { state in
            state.epoch = epoch.epoch
            state.hasNewer = false
            state.share = self.share
            state.counts = self.counts
        }
    }
}
