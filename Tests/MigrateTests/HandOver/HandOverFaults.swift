/// The real machines, and bugs that can be planted round them. Without a fault the wrappers pass everything through.

import Migrate

/// A bug that somebody could write. The exploration must find each of them.
enum HandOverFault: String, Hashable, CaseIterable, Sendable {
    // Source.
    case resumesWhenInDoubt
    case resumesWhenLinkBreaksAfterCommit
    case cancelsAfterCommit
    case freesAtCommit
    case commitsWithoutRecord
    case resumesWithoutTakingTheRecordBack
    case believesOldAttempts
    case doesNotRepeatVoid
    case doesNotRepeatCommit
    case saysVoidAfterCommit
    case retriesWithoutAcknowledgement
    // Destination.
    case runsAtReady
    case runsWhenLinkBreaks
    case runsAgainAtRepeatedCommit
    case dropsReadyCopyWhenLinkBreaks
    case obeysOldAttempts
    case ignoresVoid
    case doesNotRepeatRunning
    case cancelsAfterReady
}

struct FaultySource: Hashable {
    var real: SourceHandOver
    let fault: HandOverFault?

    init(_ real: SourceHandOver, fault: HandOverFault?) {
        self.real = real
        self.fault = fault
    }

    mutating func handle(_ event: SourceHandOver.Event) -> [SourceHandOver.Action] {
        let before = real
        switch (fault, event) {
        case (.resumesWhenInDoubt, .timer(.doubt)) where before.phase == .committed,
            (.resumesWhenLinkBreaksAfterCommit, .linkDown) where before.phase == .committed,
            (.cancelsAfterCommit, .cancel) where before.phase == .committed:
            return real.handle(event) + [.resumeVM]
        case (.freesAtCommit, .recorded(.givenAway)):
            return real.handle(event) + [.freeVM]
        case (.commitsWithoutRecord, .disksReleased):
            return real.handle(event).filter { $0 != .record(.givenAway) } + real.handle(.recorded(.givenAway))
        case (.resumesWithoutTakingTheRecordBack, .recorded(.givenAway)):
            let actions = real.handle(event)
            guard actions == [.record(.takenBack)] else { return actions }
            return real.handle(.recorded(.takenBack))
        case (.believesOldAttempts, .message(var message)):
            message.attempt = before.attempt
            message.digest = before.digest
            return real.handle(.message(message))
        case (.doesNotRepeatVoid, .linkUp) where before.pendingVoid != nil,
            (.doesNotRepeatCommit, .linkUp) where before.phase == .committed:
            return real.handle(event).filter { if case .send = $0 { false } else { true } }
        case (.saysVoidAfterCommit, .linkUp) where before.phase == .committed:
            return real.handle(event).map { action in
                guard case .send(var message) = action else { return action }
                message.body = .void(.retry)
                return .send(message)
            }
        case (.retriesWithoutAcknowledgement, .stopAndCopy):
            return real.handle(event)
        case (.retriesWithoutAcknowledgement, .timer(.ready)):
            // Takes its own word for the destination's.
            let actions = real.handle(event)
            return actions
                + real.handle(
                    .message(
                        HandOverMessage(
                            session: real.session, attempt: real.attempt, digest: real.digest, body: .voided)))
        default:
            return real.handle(event)
        }
    }

    func hash(into hasher: inout Hasher) {
        hasher.combine(real.phase)
        hasher.combine(real.attempt)
        hasher.combine(real.isLinked)
        hasher.combine(real.pendingVoid)
        hasher.combine(real.doubt)
    }
}

struct FaultyDestination: Hashable {
    var real: DestinationHandOver
    let fault: HandOverFault?

    init(_ real: DestinationHandOver, fault: HandOverFault?) {
        self.real = real
        self.fault = fault
    }

    mutating func handle(_ event: DestinationHandOver.Event) -> [DestinationHandOver.Action] {
        let before = real
        switch (fault, event) {
        case (.runsAtReady, .loaded):
            return real.handle(event) + (real.phase == .ready ? [.lockDisks, .runVM] : [])
        case (.runsWhenLinkBreaks, .linkDown) where before.phase == .ready:
            return real.handle(event) + [.runVM]
        case (.runsAgainAtRepeatedCommit, .message(let message)) where message.body == .commit:
            let actions = real.handle(event)
            guard case .running = before.phase else { return actions }
            return actions + [.runVM]
        case (.dropsReadyCopyWhenLinkBreaks, .linkDown) where before.phase == .ready,
            (.cancelsAfterReady, .cancel) where before.phase == .ready:
            return real.handle(event) + [.discardCopy]
        case (.obeysOldAttempts, .message(var message)):
            if message.body == .commit {
                message.attempt = before.attempt
                message.digest = before.digest
            }
            return real.handle(.message(message))
        case (.ignoresVoid, .message(let message)) where before.phase == .ready:
            guard case .void = message.body else { return real.handle(event) }
            return []
        case (.doesNotRepeatRunning, .linkUp), (.doesNotRepeatRunning, .message):
            let actions = real.handle(event)
            guard case .running = before.phase else { return actions }
            return actions.filter { if case .send = $0 { false } else { true } }
        default:
            return real.handle(event)
        }
    }

    func hash(into hasher: inout Hasher) {
        hasher.combine(real.phase)
        hasher.combine(real.attempt)
        hasher.combine(real.isLinked)
        hasher.combine(real.doubt)
    }
}
