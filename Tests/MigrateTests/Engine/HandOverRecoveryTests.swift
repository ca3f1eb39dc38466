/// A process that died in a hand-over, and what its ledger can still do for the VM.

import Glibc
import Migrate
import Testing

extension HostileTests {
    @Suite(.serialized) struct HandOverRecoveryTests {
        private func ledger(
            _ phase: HandOverLedger.Phase, _ role: HandOverLedger.Role = .source, peer: Endpoint
        ) -> HandOverLedger {
            HandOverLedger(
                role: role, session: SessionIdentifier(high: 3, low: 4), attempt: AttemptNumber(1),
                digest: MemoryDigest(ForgedSource.zeroDigest), mode: .preCopy, phase: phase, machine: "model",
                peer: peer.description)
        }

        /// A destination that stands ready, and whose source is gone.
        private func readyDestination() throws -> ForgedSource {
            let source = try ForgedSource()
            let lanes = try [source.lane(0), source.lane(1)]
            for lane in lanes { lane.socket.send(lane.forge.epoch(1, pages: 0, zeroPages: 0)) }
            source.control.send(source.forge.state("model", [42, 0, 0, 0, 0, 0, 0, 0]))
            source.control.send(source.forge.digest(ForgedSource.zeroDigest, pages: 1280, epoch: 1))
            source.say(.final(.preCopy), digest: ForgedSource.zeroDigest)
            _ = try require(source.next(23))
            source.control.hangUp()
            return source
        }

        /// The source gave its VM away and died before COMMIT was heard: a tool says it again, and the VM runs.
        @Test(.timeLimit(.minutes(2))) func commitIsSaidForADeadSource() async throws {
            try await hostile {
                let source = try readyDestination()
                check(source.receiving.machine?.isRunning == false)

                let written = Recorded()
                let recovery = try HandOverRecovery(
                    ledger(.givenAway, peer: source.receiving.endpoint), timeouts: Hostile.timeouts,
                    logger: source.receiving.log.logger
                ) { written.add($0.phase) }
                try recovery.finish(within: .seconds(20))
                check(source.receiving.machine?.isRunning == true, "\(source.receiving.log.text)")
                check(source.receiving.machine?.counter == 42)
                check(written.phases == [.done], "\(written.phases)")
                source.receiving.end()
            }
        }

        /// A person kept the VM at the source, whose process has died since: the destination hears that its copy is void.
        @Test(.timeLimit(.minutes(2))) func voidIsSaidForADeadSource() async throws {
            try await hostile {
                let source = try readyDestination()
                let recovery = try HandOverRecovery(
                    ledger(.resolvedHere, peer: source.receiving.endpoint), timeouts: Hostile.timeouts,
                    logger: source.receiving.log.logger
                ) { _ in }
                try recovery.finish(within: .seconds(20))
                check(source.receiving.machine?.isRunning == false, "\(source.receiving.log.text)")
                source.receiving.end()
            }
        }

        /// A receiver that is started again answers for the one that died, and the VM is not taken for alive.
        @Test(.timeLimit(.minutes(2)), arguments: [HandOverLedger.Phase.ready, .running])
        func aDeadDestinationIsReported(_ phase: HandOverLedger.Phase) async throws {
            try await hostile {
                let left = ledger(phase, .destination, peer: .unix(path: "/nowhere"))
                let receiving = try Receiving(
                    options: ReceiveOptions(
                        timeouts: Hostile.timeouts, handshakeTimeout: .seconds(5),
                        findLedger: { $0 == left.session ? left : nil }))
                let recovery = try HandOverRecovery(
                    ledger(.givenAway, peer: receiving.endpoint), timeouts: Hostile.timeouts,
                    logger: receiving.log.logger
                ) { _ in }
                do {
                    try recovery.finish(within: .seconds(20))
                    check(false, "a VM that died was taken for alive")
                } catch let error as HandOverRecoveryError {
                    check(error.code == .destinationLost, "\(error)")
                }
                receiving.end()
            }
        }

        /// What nobody knows, and what nobody needs to hear.
        @Test(.timeLimit(.minutes(2))) func whatCannotBeFinishedSaysWhy() async throws {
            try await hostile {
                let receiving = try Receiving()
                let logger = receiving.log.logger
                let strange = try HandOverRecovery(ledger(.givenAway, peer: receiving.endpoint), logger: logger) { _ in
                }
                do {
                    try strange.finish(within: .seconds(20))
                    check(false, "a session that nobody knows was finished")
                } catch let error as HandOverRecoveryError {
                    check(error.code == .peerLost && error.message.contains("does not know"), "\(error)")
                }
                receiving.end()
                let nobody = try HandOverRecovery(
                    ledger(.givenAway, peer: .unix(path: "/nowhere/socket")), logger: logger
                ) { _ in }
                do {
                    try nobody.finish(within: .milliseconds(300))
                    check(false, "nobody was reached")
                } catch let error as HandOverRecoveryError {
                    check(error.code == .peerLost && error.message.contains("was not reached"), "\(error)")
                }
                for phase in [HandOverLedger.Phase.takenBack, .done, .void] {
                    check(
                        (try? HandOverRecovery(ledger(phase, peer: receiving.endpoint), logger: logger) { _ in }) == nil
                    )
                }
            }
        }
    }
}

/// Phases in the order in which they were put on record.
private final class Recorded {
    private(set) var phases: [HandOverLedger.Phase] = []
    func add(_ phase: HandOverLedger.Phase) { phases.append(phase) }
}
