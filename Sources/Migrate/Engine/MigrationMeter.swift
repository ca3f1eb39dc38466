/// Counts and clocks of a migration under way; the report and the progress lines come from here.

import Synchronization
import Units

final class MigrationMeter: Sendable {
    private struct State {
        var phase = MigrationProgress.Phase.connecting
        var started = MonotonicInstant.now
        var round = 0
        /// Pages of the round under way, and pages sent before it.
        var roundPages: UInt64 = 0
        var sentBefore: UInt64 = 0
        var dirtyRate = 0.0
        var workingSet: UInt64?
        var expectedDowntime: Duration?
        /// For the rate: what was sent at an instant not long ago.
        var marks: [(at: MonotonicInstant, bytes: UInt64)] = []
        var last = PageCounts()
    }

    let pagesTotal: UInt64
    private let state = Mutex(State())

    init(pagesTotal: UInt64) { self.pagesTotal = pagesTotal }

    func begin() { state.withLock { $0.started = .now } }

    func enter(_ phase: MigrationProgress.Phase) { state.withLock { $0.phase = phase } }

    func beginRound(_ index: Int, pages: UInt64, sentBefore: UInt64) {
        state.withLock { state in
            state.phase = .copying
            state.round = index
            state.roundPages = pages
            state.sentBefore = sentBefore
        }
    }

    func note(dirtyBytesPerSecond: Double, expectedDowntime: Duration?) {
        state.withLock { state in
            state.dirtyRate = dirtyBytesPerSecond
            state.expectedDowntime = expectedDowntime
        }
    }

    func note(workingSetBytes: UInt64) { state.withLock { $0.workingSet = workingSetBytes } }

    var workingSetBytes: UInt64? { state.withLock { $0.workingSet } }

    var elapsed: Duration { state.withLock { .now - $0.started } }

    func progress(counts: [PageCounts], doubt: HandOverDoubt?) -> MigrationProgress {
        state.withLock { state in
            let now = MonotonicInstant.now
            // When the lanes are gone, the last counts stand.
            if !counts.isEmpty { state.last = counts.reduce(into: PageCounts()) { $0.add($1) } }
            let total = state.last
            state.marks.append((now, total.bytes))
            if state.marks.count > 2 { state.marks.removeAll { now - $0.at > .seconds(2) } }
            var rate = 0.0
            if let first = state.marks.first, now - first.at > .milliseconds(50) {
                rate = Double(total.bytes - min(first.bytes, total.bytes)) / (now - first.at).inSeconds
            } else if now > state.started {
                rate = Double(total.bytes) / max((now - state.started).inSeconds, 1e-3)
            }
            let sentInRound = total.pages - min(state.sentBefore, total.pages)
            return MigrationProgress(
                phase: doubt == nil ? state.phase : .doubt, round: state.round,
                elapsedSeconds: (now - state.started).inSeconds, pagesTotal: pagesTotal, pagesSent: total.pages,
                bytesSent: total.bytes, pagesRemaining: state.roundPages - min(sentInRound, state.roundPages),
                bytesPerSecond: rate, dirtyBytesPerSecond: state.dirtyRate, workingSetBytes: state.workingSet,
                expectedDowntimeMilliseconds: state.expectedDowntime.map { $0.inSeconds * 1000 },
                doubt: doubt.map(\.explanation), note: nil)
        }
    }
}

extension PageCounts {
    mutating func add(_ other: PageCounts) {
        pages += other.pages
        zeroPages += other.zeroPages
        bytes += other.bytes
    }
}

extension HandOverDoubt {
    /// For people: why this side stands still, and what to do.
    public var explanation: String {
        switch self {
        case .committedAndSilent:
            "the VM was given to the destination, which is silent: it may run there. This side dials it again; if it is "
                + "dead for good, `migratectl resolve` can run the VM here"
        case .destinationLost:
            "the VM was given to the destination, whose process has died since; `migratectl resolve` can run it here"
        case .destinationRanAndDied:
            "the VM ran at the destination and died there; `migratectl resolve` can run the older copy here"
        case .readyAndSilent:
            "the VM is complete here, and the source is silent: it may have resumed there. If the source is dead for "
                + "good, `migratectl resolve` can run the VM here"
        case .split:
            "the VM was started here on a person's word that the other side is dead, and the other side runs it; this "
                + "copy stands still"
        case .startFailed:
            "the VM was handed over and could not be started here; `migratectl resolve` can try again"
        case .disksNotLocked:
            "the VM's disks are locked by somebody else; it is tried again each second"
        }
    }
}
