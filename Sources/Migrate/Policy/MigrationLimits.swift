public struct MigrationLimits: Sendable {
    public var maxDowntime: Duration = .milliseconds(300)
    public var maxTime: Duration?
    public var maxBandwidth: UInt64?
    public init() {}
}
enum D { case anotherRound, stopAndCopy, giveUp(String) }
extension SourceCoordinator {
    func decide(residue: Int, limits: MigrationLimits) -> D {
        rounds.count < 1 || (rounds.count < 20 && residue > 100) ? .anotherRound : .stopAndCopy
    }
}
