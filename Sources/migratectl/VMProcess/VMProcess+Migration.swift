/// Moving the VM that this process runs.

import Control
import Logging
import Machine
import Migrate
import Synchronization
import VMState

extension VMProcess {
    func startMigration(_ request: SendRequest) throws(ControlError) -> MigrationStatus {
        let machine = try machine(in: .running, "send")
        let destination = try Self.endpoint(request.destination)
        guard destination.isLocal || request.insecure else {
            throw ControlError(
                .badRequest,
                "Sending to \(destination) takes the guest's memory over a network unencrypted: say --insecure if "
                    + "you trust that network, or use a tunnel that ends on this host.")
        }
        let limits = try MigrationLimits().changed(by: request.limits)
        if state.withLock({ $0.incoming })?.progress?.pagesMissing != nil {
            throw ControlError(
                .wrongState,
                "VM \(claim.name) still waits for pages from its last host: it can be sent when they are here.")
        }
        let migration = OutgoingMigration(
            machine: machine, destination: destination,
            options: MigrationOptions(
                mode: request.mode ?? .preCopy, lanes: request.lanes, limits: limits,
                recordDirectory: request.recordDirectory,
                recordLedger: { [self] in try recordLedger($0) }),
            logger: logger)
        let isFree = state.withLock { state in
            guard state.outgoing == nil, state.end == nil else { return false }
            state.outgoing = migration
            state.peer = destination.description
            state.message = nil
            return true
        }
        guard isFree else {
            if state.withLock({ $0.outgoing })?.isKeptHere == true {
                throw ControlError(
                    .wrongState,
                    "VM \(claim.name) was kept here in doubt, and its last destination has not heard so yet: it cannot "
                        + "be moved before that.")
            }
            throw ControlError(
                .wrongState,
                "VM \(claim.name) is being moved already: migratectl status \(claim.name) shows how far it is.")
        }
        do {
            try PlainThread.detached(name: "migration") { [self] in finish(migration.run()) }
        } catch {
            state.withLock { $0.outgoing = nil }
            throw ControlError(.failed, "Cannot start the migration: \(error).")
        }
        return self.migration()
    }

    /// A migration is over.
    private func finish(_ result: MigrationReport) {
        var report = result
        let found = state.withLock { $0.machine }?.stateWarnings ?? []
        if !found.isEmpty { report.warnings = (report.warnings ?? []) + found.map(\.description) }
        let peer = state.withLock { state in
            let limits = state.outgoing.map { MigrationLimitsPayload($0.limits) }
            let progress = state.outgoing?.progress
            state.last = MigrationStatus(
                state: .init(report.outcome), direction: .outgoing, peer: state.peer, message: report.error,
                limits: limits,
                progress: progress, report: report)
            state.outgoing = nil
            return state.peer ?? "elsewhere"
        }
        noteMigrationEnd()
        switch report.outcome {
        case .completed: end(.moved(to: peer))
        case .droppedHere: end(.dropped)
        // The other side has heard it: nothing is left to say.
        case .resolvedHere: forgetLedger(session: report.session)
        default:
            forgetLedger(session: report.session)
            logger.notice("the VM runs on here: \(report.error ?? report.outcome.rawValue)")
        }
    }

    func migration() -> MigrationStatus {
        state.withLock { state in
            if let outgoing = state.outgoing {
                let progress = outgoing.progress
                if outgoing.isKeptHere {
                    return MigrationStatus(
                        state: .resolvedHere, direction: .outgoing, peer: state.peer,
                        message:
                            "the VM was kept here; the other side has not heard so yet, and is dialled until it has",
                        progress: progress)
                }
                return MigrationStatus(
                    state: progress.phase == .doubt ? .doubt : .active, direction: .outgoing, peer: state.peer,
                    message: progress.doubt, choices: outgoing.choices, limits: MigrationLimitsPayload(outgoing.limits),
                    progress: progress)
            }
            let incomingProgress = state.incoming?.progress
            if let incoming = state.incoming,
                state.phase == .receiving || incomingProgress?.doubt != nil || incomingProgress?.pagesMissing != nil
            {
                let progress = incomingProgress
                return MigrationStatus(
                    state: progress?.doubt == nil ? .active : .doubt, direction: .incoming, peer: state.peer,
                    message: progress?.doubt, choices: incoming.choices, receiving: progress)
            }
            return state.last
        }
    }

    func awaitMigrationEnd(timeout: Duration) {
        _ = migrationEnds.wait(until: .now + timeout) { [self] _ in migration().state.isUnderWay ? nil : () }
    }

    /// Wakes who waits for the end, once `migration()` says it.
    func noteMigrationEnd() { migrationEnds.update { $0 += 1 } }

    func cancelMigration() throws(ControlError) {
        let (outgoing, incoming, phase) = state.withLock { ($0.outgoing, $0.incoming, $0.phase) }
        if let outgoing {
            guard outgoing.cancel() else {
                throw ControlError(
                    .wrongState,
                    "Too late to cancel: VM \(claim.name) was given to its destination. If both stand still, "
                        + "decide with: migratectl resolve \(claim.name)")
            }
        } else if phase == .receiving, let incoming {
            guard incoming.cancel() else {
                throw ControlError(.wrongState, "Too late to cancel: the VM may be given to this side at any moment.")
            }
        } else {
            throw ControlError(.wrongState, "VM \(claim.name) is not being moved.")
        }
    }

    func switchToPostCopy() throws(ControlError) {
        guard let outgoing = state.withLock({ $0.outgoing }) else {
            throw ControlError(.wrongState, "VM \(claim.name) is not being sent.")
        }
        switch outgoing.switchToPostCopy() {
        case nil: return
        case .notAllowed:
            throw ControlError(
                .wrongState,
                "This migration of VM \(claim.name) was begun without post-copy: cancel it, and send with --mode hybrid."
            )
        case .tooLate:
            throw ControlError(.wrongState, "VM \(claim.name) is being handed over already.")
        }
    }

    func setLimits(_ limits: MigrationLimitsPayload) throws(ControlError) -> MigrationLimitsPayload {
        guard let outgoing = state.withLock({ $0.outgoing }) else {
            throw ControlError(.wrongState, "VM \(claim.name) is not being sent: there are no limits to change.")
        }
        let changed = try outgoing.limits.changed(by: limits)
        outgoing.update(limits: changed)
        return MigrationLimitsPayload(changed)
    }

    func resolve(_ request: ResolveRequest) throws(ControlError) {
        let resolution: HandOverResolution =
            switch request.decision {
            case .keep: .runHere(otherSideIsDead: request.otherSideIsDead)
            case .discard: .dropHere(copyMayBeLost: request.otherSideIsDead)
            }
        let (outgoing, incoming) = state.withLock { ($0.outgoing, $0.incoming) }
        let objection: HandOverObjection? =
            if let outgoing { outgoing.resolve(resolution) } else if let incoming { incoming.resolve(resolution) } else
            { .noDoubt }
        if let objection { throw ControlError(.wrongState, Self.sentence(objection, claim.name)) }
    }

    private static func sentence(_ objection: HandOverObjection, _ name: VMName) -> String {
        switch objection {
        case .noDoubt: "There is nothing to decide about VM \(name): its hand-over is not in doubt."
        case .wordMissing: "Deciding needs the word that the other side is dead."
        case .noCopy: "This side has no copy of VM \(name) that could run."
        case .notRecorded: "The decision about VM \(name) could not be recorded, and so was not taken."
        case .otherSideAnswers:
            "The other side of \(name) is not dead, it is connected: the hand-over goes on by itself."
        case .sessionOver: "The hand-over of VM \(name) is over already."
        case .alreadyCommitted, .alreadyReady, .notNow, .attemptsUsedUp:
            "The hand-over of VM \(name) goes on by itself: ask again if it does not."
        }
    }

    static func endpoint(_ text: String) throws(ControlError) -> Endpoint {
        do { return try Endpoint(parsing: text) } catch { throw ControlError(.badRequest, "\(error)") }
    }
}

extension MigrationLimits {
    /// These limits with what a client wants changed.
    func changed(by payload: MigrationLimitsPayload) throws(ControlError) -> MigrationLimits {
        try payload.validate()
        var limits = self
        if let policy = payload.policy.flatMap({ MigrationPolicy(rawValue: $0) }) { limits.policy = policy }
        if let value = payload.maxDowntimeMilliseconds { limits.maxDowntime = .microseconds(Int64(value * 1000)) }
        if let value = payload.maxTimeMilliseconds {
            limits.maxTime = value == 0 ? nil : .microseconds(Int64(value * 1000))
        }
        if let value = payload.maxBytesPerSecond { limits.maxBandwidth = value == 0 ? nil : value }
        return limits
    }
}

extension MigrationLimitsPayload {
    init(_ limits: MigrationLimits) {
        self.init(
            policy: limits.policy.rawValue, maxDowntimeMilliseconds: limits.maxDowntime.milliseconds,
            maxBytesPerSecond: limits.maxBandwidth ?? 0,
            maxTimeMilliseconds: limits.maxTime?.milliseconds ?? 0)
    }
}

extension Duration {
    var milliseconds: Double { Double(components.seconds) * 1000 + Double(components.attoseconds) / 1e15 }
}
