/// What one side of a hand-over has decided, in a form that outlives its process.
///
/// The ledger lies in the runtime directory, which is usually a tmpfs: a crash of the host loses it, and loses with
/// it every VM that the host ran, so there is nothing left that it could speak about.

public struct HandOverLedger: Hashable, Sendable {
    public enum Role: UInt8, Hashable, Sendable, CaseIterable {
        case source = 1
        case destination = 2
    }

    /// What is on record.
    public enum Phase: UInt8, Hashable, Sendable, CaseIterable {
        /// Source: the VM is given away by this attempt. Written before COMMIT is said.
        case givenAway = 1
        /// Source: the attempt on record was taken back before COMMIT; the VM runs here.
        case takenBack = 2
        /// Destination: READY was said.
        case ready = 3
        /// Destination: the VM ran here.
        case running = 4
        /// Either: a person decided that the VM runs here, and that the other side's copy is void.
        case resolvedHere = 5
        /// Either: this side's copy is void and was dropped or stays stopped.
        case void = 6
        /// Either: the hand-over is complete and both know it.
        case done = 7
    }

    public var role: Role
    public var session: SessionIdentifier
    public var attempt: AttemptNumber
    public var digest: MemoryDigest
    public var mode: HandOverMode
    public var phase: Phase
    /// The VM's name.
    public var machine: String
    /// How the other side was reached ("host:port"); for people, and for a restarted tool that dials again.
    public var peer: String

    public init(
        role: Role, session: SessionIdentifier, attempt: AttemptNumber, digest: MemoryDigest, mode: HandOverMode,
        phase: Phase, machine: String, peer: String
    ) {
        self.role = role
        self.session = session
        self.attempt = attempt
        self.digest = digest
        self.mode = mode
        self.phase = phase
        self.machine = machine
        self.peer = peer
    }
}

extension SourceHandOver {
    /// The record that `record` and `note` ask for.
    public func ledger(_ phase: HandOverLedger.Phase, machine: String, peer: String) -> HandOverLedger {
        HandOverLedger(
            role: .source, session: session, attempt: attempt, digest: digest, mode: mode, phase: phase,
            machine: machine, peer: peer)
    }
}

extension DestinationHandOver {
    /// The record that `record` and `note` ask for.
    public func ledger(_ phase: HandOverLedger.Phase, machine: String, peer: String) -> HandOverLedger {
        HandOverLedger(
            role: .destination, session: session, attempt: attempt, digest: digest, mode: mode, phase: phase,
            machine: machine, peer: peer)
    }
}
