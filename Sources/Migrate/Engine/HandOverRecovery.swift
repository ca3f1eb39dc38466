/// For a process that died in a hand-over: says again what its ledger holds. It has no VM, so nothing that it says can
/// make two.

import Glibc
import Logging
import Units

/// Why a hand-over could not be finished for a process that died. `description` is one sentence.
public struct HandOverRecoveryError: Error, CustomStringConvertible, Sendable {
    /// Can grow: switch with a default.
    public enum Code: Sendable {
        /// The ledger holds nothing that the other side needs to hear.
        case nothingToSay
        /// The other side was not reached, or does not know the session.
        case peerLost
        /// The other side lost its copy: there is no VM any more.
        case destinationLost
    }

    public var code: Code
    public var message: String

    init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { message }
}

/// The source's side. A ledger says that the VM was given away, and its process died before it heard RUNNING: the
/// destination stands ready and waits for COMMIT. Or a person kept the VM at the source, whose process has died since: the
/// destination still has to hear that its copy is void.
public struct HandOverRecovery {
    private let ledger: HandOverLedger
    private let destination: Endpoint
    private let timeouts: HandOverTimeouts
    private let record: (HandOverLedger) throws -> Void
    private let logger: Logger

    /// - Parameter record: writes the ledger, as `MigrationOptions.recordLedger` does.
    /// - Throws: `HandOverRecoveryError` (`nothingToSay`) if the ledger is not that of a source that gave its VM away.
    public init(
        _ ledger: HandOverLedger, timeouts: HandOverTimeouts = .init(), logger: Logger,
        record: @escaping (HandOverLedger) throws -> Void
    ) throws {
        guard SourceHandOver(restoring: ledger) != nil else {
            throw HandOverRecoveryError(
                .nothingToSay,
                "the process that died here had nothing to say about '\(ledger.machine)' that the other side does not know"
            )
        }
        // COMMIT would start a VM whose pages died with the process that had them.
        guard ledger.mode == .preCopy || ledger.phase != .givenAway else {
            throw HandOverRecoveryError(
                .destinationLost,
                "'\(ledger.machine)' was handed over before its pages, and those that had not followed it died with the process "
                    + "here: if it does not run at \(ledger.peer), it is lost")
        }
        self.ledger = ledger
        self.timeouts = timeouts
        self.logger = logger
        self.record = record
        do { destination = try Endpoint(parsing: ledger.peer) } catch {
            throw HandOverRecoveryError(.nothingToSay, "\(error)")
        }
    }

    /// Dials the destination until it has heard what is on record and has answered, for `timeout` at most.
    /// - Throws: `HandOverRecoveryError`.
    public func finish(within timeout: Duration) throws {
        let deadline = MonotonicInstant.now + timeout
        var last = "nobody answered"
        while true {
            do {
                return try say()
            } catch let error as HandOverRecoveryError {
                throw error
            } catch {
                last = "\(error)"
                logger.debug("\(destination): \(last)")
            }
            guard .now + .milliseconds(200) < deadline else { break }
            usleep(200_000)
        }
        throw HandOverRecoveryError(
            .peerLost, "the other side of '\(ledger.machine)' at \(destination) was not reached: \(last)")
    }

    /// One connection: COMMIT, and what is answered.
    private func say() throws {
        guard var machine = SourceHandOver(restoring: ledger, timeouts: timeouts) else { return }
        let connection = try Connection.connect(to: destination)
        connection.setReadTimeout(timeouts.silence)
        connection.setWriteTimeout(timeouts.silence)
        let writer = try RecordWriter(connection)
        try writer.send(.rejoin(ledger.session))
        var reader = RecordReader(connection)
        _ = try reader.readStreamHeader()
        guard case .record(.rejoin(ledger.session))? = try reader.next() else {
            throw HandOverRecoveryError(
                .peerLost,
                "\(destination) does not know the hand-over of '\(ledger.machine)' (any more): either it ended well, or "
                    + "the process there died, too")
        }
        if try carryOut(machine.handle(.linkUp), of: machine, writer) { return }
        while let next = try reader.next() {
            guard case .record(.handover(let message)) = next else { continue }
            if try carryOut(machine.handle(.message(message)), of: machine, writer) { return }
        }
        throw connection.endOfInput()
    }

    /// True when the hand-over is complete.
    private func carryOut(
        _ actions: [SourceHandOver.Action], of machine: SourceHandOver, _ writer: RecordWriter
    ) throws -> Bool {
        var isComplete = false
        for action in actions {
            switch action {
            case .send(let message): try writer.send(.handover(message))
            case .note(let phase), .record(let phase):
                try? record(machine.ledger(phase, machine: ledger.machine, peer: ledger.peer))
            case .reportDoubt(let doubt):
                throw HandOverRecoveryError(
                    .destinationLost,
                    "the VM '\(ledger.machine)' is lost, its processes have died on both sides: \(doubt.explanation)")
            case .ended: isComplete = true
            // The rest concerns a VM, which is not here, or a link that is kept.
            default: break
            }
        }
        return isComplete
    }
}

/// The destination's side: a receiver is started again, and the source asks for a session whose process died here.
struct LostSession {
    private let ledger: HandOverLedger
    private var machine: DestinationHandOver
    private let record: (HandOverLedger) throws -> Void

    /// Nil when the ledger holds nothing that the source needs to hear.
    init?(_ ledger: HandOverLedger, options: ReceiveOptions) {
        guard let machine = DestinationHandOver(restoring: ledger, timeouts: options.timeouts) else { return nil }
        self.ledger = ledger
        self.machine = machine
        record = options.recordLedger
    }

    /// Says that the copy is gone, and answers, until the connection ends.
    mutating func answer(_ writer: RecordWriter, _ reader: ReaderHandle) throws {
        try say(machine.handle(.linkUp), writer)
        while let record = try reader.next() {
            guard case .handover(let message) = record else { continue }
            try say(machine.handle(.message(message)), writer)
        }
    }

    private func say(_ actions: [DestinationHandOver.Action], _ writer: RecordWriter) throws {
        for action in actions {
            switch action {
            case .send(let message): try writer.send(.handover(message))
            case .note(let phase), .record(let phase):
                try? record(machine.ledger(phase, machine: ledger.machine, peer: ledger.peer))
            default: break
            }
        }
    }
}
