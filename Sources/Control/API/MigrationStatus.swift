/// What the API says about a migration, while it goes on and after.

import Migrate

/// The progress of a migration, or how it ended. What the events carry and `migratectl status` shows.
public struct MigrationStatus: Codable, Equatable, Sendable {
    public enum Direction: String, Codable, Sendable {
        case outgoing, incoming
    }

    /// Under way, or how it ended. Every end has an exit code of `migratectl` (docs/cli.md).
    public enum State: String, Codable, Sendable, CaseIterable {
        /// There is none, and there was none.
        case none
        /// Under way.
        case active
        /// The link broke after the VM was given away: stopped on both sides until they meet again or a person decides.
        case doubt

        // From here on as in `MigrationOutcome`.

        /// The VM runs at the destination.
        case completed
        /// Somebody cancelled it; the VM runs on at the source.
        case cancelled
        /// No receiver could be reached; the VM runs on at the source.
        case unreachable
        /// The other side said no; the VM runs on at the source.
        case refused
        /// The other side went away before the VM was given away; the VM runs on at the source.
        case peerLost
        /// The limits could not be kept; the VM runs on at the source.
        case notConverging
        /// Anything else; `message` says what. The VM runs on at the source.
        case failed
        /// In doubt, a person decided that the VM runs at the source.
        case resolvedHere
        /// In doubt, a person decided that the source's copy is void.
        case droppedHere

        public init(_ outcome: MigrationOutcome) {
            self =
                switch outcome {
                case .completed: .completed
                case .cancelled: .cancelled
                case .unreachable: .unreachable
                case .refused: .refused
                case .peerLost: .peerLost
                case .notConverging: .notConverging
                case .failed: .failed
                case .resolvedHere: .resolvedHere
                case .droppedHere: .droppedHere
                }
        }

        /// Whether it is under way, in doubt too: then it may still go on by itself.
        public var isUnderWay: Bool { self == .active || self == .doubt }
    }

    public var state: State
    public var direction: Direction?
    /// The other side, as it was given.
    public var peer: String?
    /// One sentence, when it is over or in trouble.
    public var message: String?
    /// In doubt: what each decision of `migratectl resolve` would cost.
    public var choices: HandOverChoices?
    /// The limits in force.
    public var limits: MigrationLimitsPayload?
    /// Where an outgoing migration stands.
    public var progress: MigrationProgress?
    /// What an outgoing migration took, when it is over.
    public var report: MigrationReport?
    /// Where an incoming migration stands.
    public var receiving: ReceiveProgress?
    /// What an incoming migration took, when the VM runs here.
    public var received: ReceiveReport?

    public init(
        state: State, direction: Direction? = nil, peer: String? = nil, message: String? = nil,
        choices: HandOverChoices? = nil, limits: MigrationLimitsPayload? = nil, progress: MigrationProgress? = nil,
        report: MigrationReport? = nil,
        receiving: ReceiveProgress? = nil, received: ReceiveReport? = nil
    ) {
        self.state = state
        self.direction = direction
        self.peer = peer
        self.message = message
        self.choices = choices
        self.limits = limits
        self.progress = progress
        self.report = report
        self.receiving = receiving
        self.received = received
    }

    public static let none = MigrationStatus(state: .none)
}
