/// What the API says about a migration, while it goes on and after.

/// The progress of a migration, or how it ended. What the events carry and `migratectl status` shows.
public struct MigrationStatus: Codable, Equatable, Sendable {
    public enum Direction: String, Codable, Sendable {
        case outgoing, incoming
    }

    /// Under way, or how it ended. Every end has an exit code of `migratectl` (docs/cli.md).
    public enum State: String, Codable, Sendable, CaseIterable {
        /// There is none, and there was none.
        case none
        /// Under way; `phase` says what it does now.
        case active
        /// The VM runs at the destination.
        case completed
        /// Somebody cancelled it; the VM runs on at the source.
        case cancelled
        /// The other side said no; the VM runs on at the source.
        case refused
        /// The other side went away before the VM was given away; the VM runs on at the source.
        case peerLost
        /// The limits could not be kept; the VM runs on at the source.
        case notConverged
        /// The link broke after the VM was given away: stopped on both sides.
        case doubt
        /// The VM is gone.
        case lost
        /// Anything else; `message` says what. The VM runs on at the source.
        case failed

        /// Whether something may still change by itself.
        public var isOver: Bool { self != .active && self != .doubt && self != .none }
    }

    public var state: State
    public var direction: Direction?
    /// The other side, as it was given.
    public var peer: String?
    /// What it does now: a word of the engine's, for people ("connecting", "preCopy", "handOver").
    public var phase: String?
    /// The round of pre-copy, from 1.
    public var round: Int?
    public var lanes: Int?
    public var elapsedMilliseconds: Double?
    /// On the wire so far.
    public var bytesSent: UInt64?
    /// Of this round, in guest memory.
    public var roundBytesDone: UInt64?
    public var roundBytesTotal: UInt64?
    /// Guest memory moved a second, as measured.
    public var bytesPerSecond: Double?
    /// Guest memory written a second, as measured.
    public var dirtyBytesPerSecond: Double?
    /// How long the guest would stand still if the hand-over began now.
    public var expectedDowntimeMilliseconds: Double?
    public var limits: MigrationLimitsPayload?
    /// One sentence, when it is over or in trouble.
    public var message: String?
    /// What it took, when it is over.
    public var report: MigrationSummary?

    public init(state: State, direction: Direction? = nil, peer: String? = nil) {
        self.state = state
        self.direction = direction
        self.peer = peer
    }

    public static let none = MigrationStatus(state: .none)
}

/// What a migration took.
public struct MigrationSummary: Codable, Equatable, Sendable {
    /// One part of the time that the VM stood still.
    public struct Phase: Codable, Equatable, Sendable {
        public var name: String
        public var milliseconds: Double

        public init(name: String, milliseconds: Double) {
            self.name = name
            self.milliseconds = milliseconds
        }
    }

    /// One round of pre-copy.
    public struct Round: Codable, Equatable, Sendable {
        public var number: Int
        public var pages: Int
        public var bytes: UInt64
        public var milliseconds: Double

        public init(number: Int, pages: Int, bytes: UInt64, milliseconds: Double) {
            self.number = number
            self.pages = pages
            self.bytes = bytes
            self.milliseconds = milliseconds
        }
    }

    public var totalMilliseconds: Double
    /// From the last guest instruction at the source to the first at the destination, as this side saw it.
    public var downtimeMilliseconds: Double?
    /// The downtime split up, in order.
    public var downtimePhases: [Phase]
    public var lanes: Int
    public var memoryBytes: UInt64
    public var bytesSent: UInt64
    public var pagesSent: Int
    /// Pages that were sent more than once, counted each time after the first.
    public var pagesResent: Int
    /// Pages that were zero or never touched, and so travelled as a note.
    public var zeroPages: Int
    public var rounds: [Round]
    /// The digest of all memory, in hexadecimal.
    public var digest: String?
    /// Whether both sides have the same digest.
    public var digestAgreed: Bool

    public init(
        totalMilliseconds: Double, downtimeMilliseconds: Double?, downtimePhases: [Phase], lanes: Int,
        memoryBytes: UInt64, bytesSent: UInt64, pagesSent: Int, pagesResent: Int, zeroPages: Int, rounds: [Round],
        digest: String?, digestAgreed: Bool
    ) {
        self.totalMilliseconds = totalMilliseconds
        self.downtimeMilliseconds = downtimeMilliseconds
        self.downtimePhases = downtimePhases
        self.lanes = lanes
        self.memoryBytes = memoryBytes
        self.bytesSent = bytesSent
        self.pagesSent = pagesSent
        self.pagesResent = pagesResent
        self.zeroPages = zeroPages
        self.rounds = rounds
        self.digest = digest
        self.digestAgreed = digestAgreed
    }
}
