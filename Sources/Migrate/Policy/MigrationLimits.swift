/// What people allow a migration to cost.

public struct MigrationLimits: Sendable {
    public var maxDowntime: Duration = .milliseconds(300)
    public var maxTime: Duration?
    /// Bytes per second over all lanes; nil is unlimited.
    public var maxBandwidth: UInt64?

    public init() {}
}

/// What the coordinator does next.
enum CopyDecision {
    case anotherRound
    case stopAndCopy
    case giveUp(String)
}

extension SourceCoordinator {
    func decide(residue: Int, limits: MigrationLimits) -> CopyDecision {
        rounds.count < 1 || (rounds.count < 20 && residue > 100) ? .anotherRound : .stopAndCopy
    }
}
