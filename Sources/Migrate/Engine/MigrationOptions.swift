/// What a person may choose about a migration.

/// When the VM changes hands: after its pages, or before them.
public enum MigrationMode: String, Codable, Sendable, CaseIterable {
    /// All pages first. A failure leaves the VM at the source.
    case preCopy = "precopy"
    /// The VM first: its pages follow, on demand and pushed. Until the last one has come it needs both hosts.
    case postCopy = "postcopy"
    /// Pre-copy, and post-copy once pre-copy cannot meet the limits.
    case hybrid
}

/// Why a migration cannot be switched to post-copy.
public enum SwitchObjection: Sendable {
    /// It was begun without.
    case notAllowed
    /// The VM is being handed over already.
    case tooLate
}

/// Options of the sending side.
public struct MigrationOptions: Sendable {
    public var mode: MigrationMode
    /// Connections that carry pages: 1 to 16; nil chooses by the machine's cores.
    public var lanes: Int?
    public var limits: MigrationLimits
    public var timeouts: HandOverTimeouts
    /// How long a destination may take to build its VM and to say so.
    public var welcomeTimeout: Duration
    /// A folder that receives a copy of everything sent, one stream a connection, for `migratectl inspect`.
    public var recordDirectory: String?
    /// Writes the hand-over's ledger durably; a VM that is never restarted from it may leave it out.
    public var recordLedger: @Sendable (HandOverLedger) throws -> Void

    public init(
        mode: MigrationMode = .preCopy, lanes: Int? = nil, limits: MigrationLimits = MigrationLimits(),
        timeouts: HandOverTimeouts = .init(),
        welcomeTimeout: Duration = .seconds(60), recordDirectory: String? = nil,
        recordLedger: @escaping @Sendable (HandOverLedger) throws -> Void = { _ in }
    ) {
        self.mode = mode
        self.lanes = lanes
        self.limits = limits
        self.timeouts = timeouts
        self.welcomeTimeout = welcomeTimeout
        self.recordDirectory = recordDirectory
        self.recordLedger = recordLedger
    }
}

/// Options of the receiving side.
public struct ReceiveOptions: Sendable {
    public var timeouts: HandOverTimeouts
    /// How long a connection may take to say what it wants.
    public var handshakeTimeout: Duration
    /// Writes the hand-over's ledger durably.
    public var recordLedger: @Sendable (HandOverLedger) throws -> Void
    /// The ledger of a session that an earlier process received here and died with.
    public var findLedger: @Sendable (SessionIdentifier) -> HandOverLedger?

    public init(
        timeouts: HandOverTimeouts = .init(), handshakeTimeout: Duration = .seconds(5),
        recordLedger: @escaping @Sendable (HandOverLedger) throws -> Void = { _ in },
        findLedger: @escaping @Sendable (SessionIdentifier) -> HandOverLedger? = { _ in nil }
    ) {
        self.findLedger = findLedger
        self.timeouts = timeouts
        self.handshakeTimeout = handshakeTimeout
        self.recordLedger = recordLedger
    }
}
