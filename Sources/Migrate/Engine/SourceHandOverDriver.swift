/// Carries out what the source's hand-over machine decides. The long action, sending the last pages, is left to the
/// coordinator; all others are done on whichever thread brought the event.

import DirtyLog
import Logging
import Synchronization

final class SourceHandOverDriver: Sendable {
    /// What the pump takes: the machine's events, and what a connection brought, which may be an old one by now.
    enum Input: Sendable {
        case event(SourceHandOver.Event)
        case linkUp(Int)
        case heard(Int, HandOverMessage)
        case linkDown(Int, any Error)
    }

    /// What the coordinator waits for.
    struct Situation: Sendable {
        /// The last pages are wanted for this attempt.
        var lastPagesWanted: AttemptNumber?
        /// The attempt under way has failed; the VM runs here again.
        var failure: AttemptFailure?
        /// What went wrong here, in words.
        var localFailure: String?
        var mayTryAgain = false
        var outcome: HandOverOutcome?
        var doubt: HandOverDoubt?
        /// The link's end, when no attempt was under way.
        var lostLink: (any Error)?
        var refusedWish: HandOverObjection?
        var timings: DestinationTimings?
        var pagingTimes: PagingTimes?
        var phase = SourceHandOver.Phase.copying
    }

    /// Instants of an attempt, for the report.
    struct Stamps: Sendable {
        var pauseBegun: MonotonicInstant?
        /// The last guest instruction here.
        var lastInstruction: MonotonicInstant?
        var paused: MonotonicInstant?
        var finalSaid: MonotonicInstant?
        var readyHeard: MonotonicInstant?
        var commitSaid: MonotonicInstant?
        var runningHeard: MonotonicInstant?
        var resumed: MonotonicInstant?
    }

    let situation = Monitor(Situation())
    let stamps = Mutex(Stamps())
    /// Serves pages in post-copy.
    let pages = Mutex<PageServer?>(nil)
    /// Held while the state is captured, and to resume.
    private let capturing = Mutex<Void>(())
    private let machine: any MigratableMachine
    private let link: ControlLink
    private let record: @Sendable (HandOverLedger) throws -> Void
    private let peer: String
    private let logger: Logger
    private let redial: @Sendable () -> Void
    private let onLinkDown: @Sendable (any Error) -> Void
    private let handOver: Mutex<SourceHandOver>
    private let timers = Mutex<TimerTable?>(nil)
    private let pump = Mutex<EventPump<Input>?>(nil)

    /// - Parameters:
    ///   - record: writes the ledger durably.
    ///   - redial: begins to dial the destination again, until it is linked or the session has ended.
    ///   - onLinkDown: called when the control connection is gone, on the thread that noticed.
    init(
        session: SessionIdentifier, timeouts: HandOverTimeouts, machine: any MigratableMachine, link: ControlLink,
        peer: String, logger: Logger, record: @escaping @Sendable (HandOverLedger) throws -> Void,
        redial: @escaping @Sendable () -> Void, onLinkDown: @escaping @Sendable (any Error) -> Void
    ) throws {
        handOver = Mutex(SourceHandOver(session: session, mode: .preCopy, timeouts: timeouts))
        self.machine = machine
        self.link = link
        self.peer = peer
        self.logger = logger
        self.record = record
        self.redial = redial
        self.onLinkDown = onLinkDown
        let pump = EventPump<Input> { [weak self] in self?.handle($0) }
        self.pump.withLock { $0 = pump }
        let table = try TimerTable { pump.submit(.event(.timer($0))) }
        timers.withLock { $0 = table }
    }

    func submit(_ input: Input) { pump.withLock { $0 }?.submit(input) }
    func submit(_ event: SourceHandOver.Event) { submit(.event(event)) }

    /// Puts a person's wish, and returns when it was granted or not (`refusedWish`).
    func wish(_ event: SourceHandOver.Event) {
        situation.update { $0.refusedWish = nil }
        pump.withLock { $0 }?.submitAndWait(.event(event))
    }

    /// Sends the captured state, section by section.
    func sendState(_ sections: [StateSection]) { link.send(sections.map { .state($0) }) }

    /// What the destination shows to people.
    func sendProgress(_ progress: ProgressRecord) { link.send(.clock(HostClock.record), .progress(progress)) }

    /// Sends which pages will follow.
    func sendStale(_ stale: [PageSet], of attempt: AttemptNumber) {
        link.send(PageSetRecord.records(of: stale, attempt: attempt))
    }

    func sendDigest(_ digest: DigestRecord) { link.send(.digest(digest)) }

    /// Says END, closes the link and ends the timers. Not from a thread of the link or of the timers.
    func closeSession() {
        link.send(.end(StreamTotals(records: link.sentRecords, pages: 0)))
        timers.withLock { table in
            defer { table = nil }
            return table
        }?.end()
        link.end(because: TransportError(.shutDown, "the migration is over"))
    }

    /// What a person may choose from, in doubt.
    var choices: HandOverChoices? { handOver.withLock { $0.choices } }

    // MARK: - Events in

    private func handle(_ input: Input) {
        let event: SourceHandOver.Event
        switch input {
        case .event(let plain): event = plain
        case .linkUp(let generation):
            guard link.isCurrent(generation) else { return }
            event = .linkUp
        case .heard(let generation, let message):
            guard link.isCurrent(generation) else { return }
            note(message)
            event = .message(message)
        case .linkDown(let generation, let error):
            guard link.isCurrent(generation) else { return }
            situation.update { $0.lostLink = error }
            // Of a link that is only wrong, not gone, the other side must see the end.
            link.close(because: error as? TransportError ?? TransportError(.closed, "\(error)"))
            onLinkDown(error)
            event = .linkDown
        }
        let (actions, phase) = handOver.withLock { handOver in (handOver.handle(event), handOver.phase) }
        for action in actions { perform(action) }
        situation.update { $0.phase = phase }
    }

    private func note(_ message: HandOverMessage) {
        stamps.withLock { stamps in
            switch message.body {
            case .ready: stamps.readyHeard = .now
            case .running: stamps.runningHeard = stamps.runningHeard ?? .now
            default: break
            }
        }
    }

    // MARK: - Actions out

    private func perform(_ action: SourceHandOver.Action) {
        switch action {
        case .pauseVM: pause()
        case .resumeVM: resume()
        case .sendLastPages(let attempt): situation.update { $0.lastPagesWanted = attempt }
        case .servePages: pages.withLock { $0 }?.start()
        case .stopServing: pages.withLock { $0 }?.stop()
        case .releaseDisks: releaseDisks()
        case .lockDisks: lockDisks()
        case .record(let phase): writeLedger(phase)
        case .note(let phase): try? record(ledger(phase))
        case .send(let message): send(message)
        case .startTimer(let timer, let duration): timers.withLock { $0?.start(timer, duration) }
        case .cancelTimer(let timer): timers.withLock { $0?.cancel(timer) }
        case .closeLink: link.close(because: TransportError(.closed, "\(peer) was silent for too long"))
        case .reconnect: redial()
        case .attemptFailed(let attempt, let failure):
            logger.info("attempt \(attempt.rawValue) to hand over failed: \(failure)")
            situation.update { state in
                state.failure = failure
                state.lastPagesWanted = nil
            }
        case .mayTryAgain: situation.update { $0.mayTryAgain = true }
        // The owner frees it when `run` has returned; from here on nothing may run it.
        case .freeVM: break
        case .reportDoubt(let doubt): situation.update { $0.doubt = doubt }
        case .doubtEnded: situation.update { $0.doubt = nil }
        case .object(let objection): situation.update { $0.refusedWish = objection }
        case .ignored(let message, let why):
            logger.debug("ignored \(message.body) of attempt \(message.attempt.rawValue): \(why)")
        case .ended(let outcome): situation.update { $0.outcome = outcome }
        }
    }

    private func pause() {
        stamps.withLock { $0 = Stamps(pauseBegun: .now) }
        do {
            let last = try machine.pause()
            stamps.withLock { stamps in
                stamps.lastInstruction = MonotonicInstant(nanoseconds: last)
                stamps.paused = .now
            }
            submit(.paused)
        } catch {
            explain("the VM could not be paused: \(error)")
            submit(.pauseFailed)
        }
    }

    /// Runs `body` while the VM stands still for an attempt: it is not resumed before `body` has returned.
    func whileStopped<R>(_ body: () throws -> R) throws -> R {
        try capturing.withLock { _ in
            guard handOver.withLock({ $0.phase }) == .sending else {
                throw MigrationError(.failed, "the attempt was given up meanwhile")
            }
            return try body()
        }
    }

    private func resume() {
        do {
            // An ioctl on a vCPU that runs waits until it leaves the guest, which may be never.
            _ = try capturing.withLock { _ in try machine.resume() }
            stamps.withLock { $0.resumed = .now }
        } catch {
            // It was paused a moment ago by the same hands; it stays stopped, whole, and says so.
            logger.error("the VM could not be resumed here: \(error)")
        }
    }

    private func releaseDisks() {
        do {
            try machine.releaseDisks()
            submit(.disksReleased)
        } catch {
            explain("the VM's disks could not be given away: \(error)")
            submit(.releaseFailed)
        }
    }

    private func explain(_ failure: String) {
        logger.error("\(failure)")
        situation.update { $0.localFailure = failure }
    }

    private func lockDisks() {
        do {
            try machine.lockDisks()
            submit(.disksLocked)
        } catch {
            logger.error("the VM's disks could not be taken back: \(error)")
            submit(.lockFailed)
        }
    }

    private func send(_ message: HandOverMessage) {
        if case .alive = message.body { return link.sendUnlessBusy(.handover(message)) }
        stamps.withLock { stamps in
            switch message.body {
            case .final: stamps.finalSaid = .now
            case .commit: stamps.commitSaid = .now
            default: break
            }
        }
        link.send(.handover(message))
    }

    private func writeLedger(_ phase: HandOverLedger.Phase) {
        do {
            try record(ledger(phase))
            submit(.recorded(phase))
        } catch {
            explain("the hand-over could not be put on record: \(error)")
            submit(.recordFailed(phase))
        }
    }

    private func ledger(_ phase: HandOverLedger.Phase) -> HandOverLedger {
        handOver.withLock { $0.ledger(phase, machine: machine.configuration.name, peer: peer) }
    }
}
