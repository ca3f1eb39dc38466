/// What a receiver tells people.

/// A migration that comes in.
public struct ReceiveProgress: Codable, Equatable, Sendable {
    public var machine: String
    public var pagesTotal: UInt64
    public var pagesReceived: UInt64
    public var bytesReceived: UInt64
    /// The source's round, if it said so.
    public var round: Int?
    public var isRunning: Bool
    /// Pages that still follow the VM, which runs here; nil if none do.
    public var pagesMissing: UInt64?
    /// Why this side stands still and what to do, if it does.
    public var doubt: String?
}

/// A VM that was received and runs here.
public struct ReceiveReport: Codable, Equatable, Sendable {
    public var machine: String
    public var session: String
    public var peer: String
    public var lanes: Int
    /// From WELCOME to the first guest instruction, in seconds.
    public var totalSeconds: Double
    /// Milliseconds, of the last attempt: see `DestinationTimings`.
    public var lastPageMilliseconds: Double
    public var loadMilliseconds: Double
    public var commitWaitMilliseconds: Double
    public var runMilliseconds: Double
    public var pagesReceived: UInt64
    public var bytesReceived: UInt64
    /// What was worth telling when the state was restored; nil if nothing was.
    public var warnings: [String]?
}
