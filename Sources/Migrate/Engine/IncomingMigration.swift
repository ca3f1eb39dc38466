/// The receiving side of a live migration: what a VMM calls.

import Logging
import Synchronization

/// Waits for one VM and takes it over. `run` does it; everything else may be called meanwhile, from any thread.
public final class IncomingMigration: Sendable {
    /// What is going on at the door.
    struct Door: Sendable {
        var session: ReceiverSession?
        /// A source's VM is being built; others are turned away.
        var isTaken = false
        var isClosing = false
        /// Somebody here wants no VM any more, and that was not refused.
        var isCancelled = false
        /// Connections that have not said yet what they want.
        var handshakes: [ObjectIdentifier: Handshake] = [:]
        var welcomed: MonotonicInstant?
        var peer = ""
    }

    struct Handshake: Sendable {
        var connection: Connection
        var since: MonotonicInstant
    }

    /// Connections that may be undecided at once.
    static let handshakeLimit = 128

    let listener: Listener
    let builder: any MachineBuilder
    let options: ReceiveOptions
    let logger: Logger
    let door = Monitor(Door())
    private let doorkeeper = Mutex<PlainThread?>(nil)
    private let closing = Mutex(false)

    /// - Parameters:
    ///   - listener: listens already, so that its errors came early.
    ///   - builder: makes the VM once its configuration is known.
    public init(listener: Listener, builder: any MachineBuilder, options: ReceiveOptions, logger: Logger) {
        self.listener = listener
        self.builder = builder
        self.options = options
        self.logger = logger
    }

    /// Waits for a VM and blocks until it runs here. The session goes on behind the scenes until the source knows:
    /// keep this object until `close`.
    /// - Throws: `ReceiveError` when the VM that came in stays at its source, or the receiver was cancelled.
    public func run() throws -> (any MigratableMachine, ReceiveReport) {
        let thread = try PlainThread(name: "listener") { [self] in keepDoor() }
        doorkeeper.withLock { $0 = thread }
        do {
            let session = try awaitSession()
            try see(session)
            return (session.machine, report(session))
        } catch {
            close()
            throw error
        }
    }

    private func awaitSession() throws -> ReceiverSession {
        let session: ReceiverSession?? = door.wait { door in
            if let session = door.session { return .some(session) }
            return door.isClosing ? .some(nil) : nil
        }
        guard let session, let session else {
            throw ReceiveError(.cancelled, "the receiver was stopped before a VM came")
        }
        return session
    }

    private enum Step {
        case load(AttemptNumber)
        case running
        case ended(HandOverOutcome)
    }

    /// Sees a session through, until its VM runs here.
    private func see(_ session: ReceiverSession) throws {
        let driver = session.driver
        while true {
            let step: Step? = driver.situation.wait { state in
                if let attempt = state.loadWanted {
                    state.loadWanted = nil
                    return .load(attempt)
                }
                if state.isRunning { return .running }
                return state.outcome.map { .ended($0) }
            }
            switch step {
            case .load(let attempt):
                do {
                    if let digest = try session.load(attempt) { driver.submit(.loaded(attempt, digest)) }
                } catch {
                    logger.error("the VM cannot be taken over: \(error)")
                    driver.submit(.loadFailed(attempt, .stateNotRestored))
                }
            case .running, nil: return
            case .ended(let outcome): throw failure(outcome, session)
            }
        }
    }

    private func failure(_ outcome: HandOverOutcome, _ session: ReceiverSession) -> ReceiveError {
        let name = session.configuration.name
        if outcome == .droppedHere {
            return ReceiveError(.dropped, "the copy of '\(name)' was dropped, as was decided")
        }
        if door.read({ $0.isClosing || $0.isCancelled }) {
            return ReceiveError(.cancelled, "the receiver was stopped")
        }
        if let lost = session.driver.situation.read({ $0.lostLink }) {
            return ReceiveError(.peerLost, "'\(name)' stays at its source: \(lost)")
        }
        return ReceiveError(.cancelled, "'\(name)' stays at its source: the migration was cancelled there")
    }

    private func report(_ session: ReceiverSession) -> ReceiveReport {
        let timings = session.driver.timings
        let (welcomed, peer) = door.read { ($0.welcomed, $0.peer) }
        let progress = session.progress
        return ReceiveReport(
            machine: session.configuration.name, session: session.identifier.description, peer: peer,
            lanes: session.lanesGranted,
            totalSeconds: welcomed.map { (MonotonicInstant.now - $0).inSeconds } ?? 0,
            lastPageMilliseconds: Double(timings.lastPage) / 1e6, loadMilliseconds: Double(timings.load) / 1e6,
            commitWaitMilliseconds: Double(timings.commitWait) / 1e6, runMilliseconds: Double(timings.run) / 1e6,
            pagesReceived: progress.pagesReceived, bytesReceived: progress.bytesReceived)
    }

    // MARK: - Meanwhile

    /// Stops waiting, or gives up what came in so far. Without effect from READY on (then `false`): the VM may be given
    /// to this side at any moment.
    @discardableResult
    public func cancel() -> Bool {
        let session = door.update { door in
            // With a session the door stays open until the wish is granted: the source may have to come back in.
            if door.session == nil { door.isClosing = true }
            door.isCancelled = true
            return door.session
        }
        guard let driver = session?.driver else { return true }
        driver.wish(.cancel)
        let isRefused = driver.situation.read { $0.refusedWish != nil && $0.outcome == nil }
        door.update { door in
            door.isCancelled = !isRefused
            if !isRefused { door.isClosing = true }
        }
        return !isRefused
    }

    /// A person's decision in doubt.
    /// - Returns: nil if it was taken, or why not.
    public func resolve(_ resolution: HandOverResolution) -> HandOverObjection? {
        guard let driver = door.read({ $0.session })?.driver else { return .noDoubt }
        driver.wish(.resolve(resolution))
        return driver.situation.read { $0.refusedWish }
    }

    /// What a person may choose from, in doubt; nil while there is nothing to decide.
    public var choices: HandOverChoices? { door.read { $0.session }?.driver.choices }

    /// Where it stands; nil before a VM comes.
    public var progress: ReceiveProgress? { door.read { $0.session }?.progress }

    /// Whether the source knows that the VM runs here, so that nothing of the session is needed any more.
    public var isSettled: Bool { door.read { $0.session }?.driver.situation.read { $0.outcome != nil } ?? false }

    /// The guest has ended, and its machine was stopped: pages that it still misses are of no use to anybody, and the source
    /// is told that it may go.
    public func forgetPages() { door.read { $0.session }?.forgetPages() }

    /// Waits until `isSettled`, at most for `timeout`, then ends all threads and stops listening. A source
    /// that has not heard RUNNING by then stays in doubt.
    public func close(waiting timeout: Duration = .zero) {
        let session = door.read { $0.session }
        if let session, timeout > .zero {
            _ = session.driver.situation.wait(until: .now + timeout) { $0.outcome }
        }
        door.update { $0.isClosing = true }
        // Whoever comes second waits until the first is done, and finds nothing to do.
        closing.withLock { isClosed in
            guard !isClosed else { return }
            isClosed = true
            doorkeeper.withLock { thread in
                defer { thread = nil }
                return thread
            }?.join()
            listener.close()
            session?.end()
        }
    }
}

/// Why a receiver has no VM. `description` is one sentence.
public struct ReceiveError: Error, CustomStringConvertible, Sendable {
    /// Can grow: switch with a default.
    public struct Code: Equatable, Sendable {
        enum Value { case cancelled, peerLost, dropped }
        let value: Value

        public static let cancelled = Code(value: .cancelled)
        /// The source died or the link broke before READY.
        public static let peerLost = Code(value: .peerLost)
        /// A person decided so.
        public static let dropped = Code(value: .dropped)
    }

    public var code: Code
    public var message: String

    init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { message }
}
