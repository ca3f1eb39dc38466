/// What happened in a migration: the same value for tables, JSON and benchmarks. Field names are part of the product.

/// One round of pre-copy.
public struct RoundReport: Codable, Equatable, Sendable {
    /// 0 is the round that sends everything.
    public var index: Int
    public var pages: UInt64
    public var zeroPages: UInt64
    public var bytes: UInt64
    public var seconds: Double
    /// Pages dirtied while it ran.
    public var dirtiedPages: UInt64

    init(_ round: RoundStatistics) {
        index = round.index
        pages = UInt64(clamping: round.pagesSent)
        zeroPages = UInt64(clamping: round.zeroPages)
        bytes = round.bytes
        seconds = round.duration.seconds
        dirtiedPages = UInt64(clamping: round.pagesDirtied)
    }
}

/// The parts of the downtime, in milliseconds, in their order. They add up to the blackout.
public struct DowntimePhases: Codable, Equatable, Sendable {
    /// Stopping the vCPUs, measured from the decision; the guest still runs during a part of it.
    public var pause: Double = 0
    /// Capturing the state of vCPUs and devices.
    public var capture: Double = 0
    /// Reading the last dirty log.
    public var lastLog: Double = 0
    /// Sending the last pages, state and digest.
    public var residue: Double = 0
    /// From FINAL said to READY heard: the destination's last pages, load and check, and the way there and back.
    public var ready: Double = 0
    /// From READY heard to COMMIT said: releasing disks, the ledger.
    public var commit: Double = 0
    /// From COMMIT said to the destination's first guest instruction.
    public var resume: Double = 0
}

/// How a migration ended for the source. Exit codes follow it.
public enum MigrationOutcome: String, Codable, Sendable, CaseIterable {
    /// The VM runs at the destination, and the source's copy may be freed.
    case completed
    /// Somebody wanted it so; the VM runs on at the source.
    case cancelled
    /// No receiver could be reached; the VM runs on at the source.
    case unreachable
    /// The destination refused and said why; the VM runs on at the source.
    case refused
    /// The destination died or the link broke before COMMIT; the VM runs on at the source.
    case peerLost
    /// The limits could not be met; the VM runs on at the source.
    case notConverging
    /// Something failed on this side; the VM runs on at the source.
    case failed
    /// In doubt, a person decided that the VM runs at the source.
    case resolvedHere
    /// In doubt, a person decided that the source's copy is void.
    case droppedHere
}

/// A finished or failed migration, as its source saw it.
public struct MigrationReport: Codable, Equatable, Sendable {
    public var outcome: MigrationOutcome
    /// What went wrong, if anything.
    public var error: String?
    public var machine: String
    public var destination: String
    public var session: String
    public var lanes: Int
    /// From the start until the source is not needed any more: RUNNING heard, in post-copy INSTALLED (or the failure); in
    /// seconds.
    public var totalSeconds: Double
    /// From connecting to the first page, in seconds: negotiation, and the destination building its VM.
    public var setupSeconds: Double
    /// From the last guest instruction here to the first there, in milliseconds, as the VMMs measured it; nil if the
    /// VM was never stopped for good.
    public var downtimeMilliseconds: Double?
    /// CLOCK_MONOTONIC nanoseconds at the source when its last guest instruction had run: for whoever measures both sides
    /// on one host. Nil if the VM was never stopped for good.
    public var stoppedAtNanoseconds: UInt64?
    public var phases: DowntimePhases
    /// What the destination measured, in milliseconds.
    public var destinationLoadMilliseconds: Double?
    public var destinationLastPageMilliseconds: Double?
    public var rounds: [RoundReport]
    public var attempts: Int
    public var pagesTotal: UInt64
    public var pagesSent: UInt64
    public var pagesZero: UInt64
    /// Pages sent more than once.
    public var pagesResent: UInt64
    public var bytesSent: UInt64
    /// Of these, sent while the VM was stopped.
    public var downtimeBytes: UInt64
    /// Memory's digest, in hexadecimal, when both sides agreed on it.
    public var digest: String?
    /// Mean over the whole migration, in bytes per second.
    public var bytesPerSecond: Double
    /// Distinct memory that the guest wrote within the last seconds before the hand-over, in bytes; nil if no round
    /// measured it.
    public var workingSetBytes: UInt64?
    /// What was worth telling when the state was captured; nil if nothing was.
    public var warnings: [String]?
    /// Post-copy: what followed the VM. Nil in pre-copy.
    public var paging: PagingReport?
}

/// How a VM's pages followed it.
public struct PagingReport: Codable, Equatable, Sendable {
    /// Pages that were left behind when the VM was stopped.
    public var pagesLeft: UInt64 = 0
    /// Of these, pages that were sent because somebody waited for them, pages that were pushed, and of the pushed ones
    /// those that were pushed early since faults were near.
    public var pagesDemanded: UInt64 = 0
    public var pagesPushed: UInt64 = 0
    public var pagesPrefetched: UInt64 = 0
    /// Pages that were sent more than once.
    public var pagesSentTwice: UInt64 = 0
    public var bytes: UInt64 = 0
    /// From the VM running there until the source could be released, in seconds.
    public var seconds: Double = 0
    /// How often the lanes broke and were opened again.
    public var interruptions = 0
    /// Why post-copy was chosen.
    public var reason: String?
    /// How long faults took at the destination; nil if it did not say.
    public var faults: PagingTimes?
}

/// A migration under way: what a line of progress shows.
public struct MigrationProgress: Codable, Equatable, Sendable {
    /// Where a migration stands.
    public enum Phase: String, Codable, Sendable {
        case connecting
        case copying
        case handingOver = "handing-over"
        /// Post-copy: the VM runs there, and its pages follow.
        case paging
        /// COMMIT was said, RUNNING was not heard: both sides may stand still until the link is back.
        case doubt
        case ended
    }

    public var phase: Phase
    public var round: Int
    public var elapsedSeconds: Double
    public var pagesTotal: UInt64
    public var pagesSent: UInt64
    public var bytesSent: UInt64
    /// Pages that the round under way still has to send.
    public var pagesRemaining: UInt64
    /// Bytes per second, lately.
    public var bytesPerSecond: Double
    /// Bytes per second that the guest dirtied in the last round.
    public var dirtyBytesPerSecond: Double
    /// Distinct memory that the guest wrote within the last five to ten seconds of the migration, in bytes.
    public var workingSetBytes: UInt64?
    /// What the model predicts for stopping now, in milliseconds.
    public var expectedDowntimeMilliseconds: Double?
    /// Why both sides stand still and what to do, if they do.
    public var doubt: String?
    /// What else is worth telling; nil if nothing is.
    public var note: String?
}
