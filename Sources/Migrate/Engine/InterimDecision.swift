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
