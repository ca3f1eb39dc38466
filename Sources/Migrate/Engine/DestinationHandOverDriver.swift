/// Carries out what the destination's hand-over machine decides. The long action, loading, is left to the coordinator;
/// all others are done on whichever thread brought the event.

import Logging
import Synchronization

final class DestinationHandOverDriver: Sendable {
    /// What the pump takes: the machine's events, and what a connection brought, which may be an old one by now.
    enum Input: Sendable {
        case event(DestinationHandOver.Event)
        case linkUp(Int)
        case heard(Int, HandOverMessage)
        case linkDown(Int, any Error)
    }

    /// What the coordinator waits for.
    struct Situation: Sendable {
        /// The attempt that is to be loaded.
        var loadWanted: AttemptNumber?
        var loadMode = HandOverMode.preCopy
        /// The attempt whose load was called off.
        var loadCalledOff: AttemptNumber?
        var isRunning = false
        var outcome: HandOverOutcome?
        var doubt: HandOverDoubt?
        var stop: DestinationHandOver.Stop?
        var lostLink: (any Error)?
        var refusedWish: HandOverObjection?
    }

    /// Instants of an attempt, for the report.
    struct Stamps: Sendable {
        var finalHeard: MonotonicInstant?
        var lastPage: MonotonicInstant?
        var loaded: MonotonicInstant?
        var readySaid: MonotonicInstant?
        var commitHeard: MonotonicInstant?
        var firstEntry: MonotonicInstant?
    }

    let situation = Monitor(Situation())
    let stamps = Mutex(Stamps())
    private let machine: any MigratableMachine
    private let link: ControlLink
    private let record: @Sendable (HandOverLedger) throws -> Void
    private let peer: String
    private let logger: Logger
    private let onVoid: @Sendable () -> Void
    /// Learns that the VM will not run from an attempt.
    private let onTakenBack: @Sendable (AttemptNumber) -> Void
    private let handOver: Mutex<DestinationHandOver>
    /// When the current connection was made, or last brought a message.
    private let lastHeard = Mutex(MonotonicInstant.now)
    private let timers = Mutex<TimerTable?>(nil)
    private let pump = Mutex<EventPump<Input>?>(nil)

    /// - Parameters:
    ///   - record: writes the ledger durably.
    ///   - onVoid: called when an attempt was taken back, before the source hears that it is understood.
    ///   - onTakenBack: called when the VM will not run from an attempt whose load may be under way.
    init(
        session: SessionIdentifier, timeouts: HandOverTimeouts, machine: any MigratableMachine, link: ControlLink,
        peer: String, logger: Logger, record: @escaping @Sendable (HandOverLedger) throws -> Void,
        onVoid: @escaping @Sendable () -> Void, onTakenBack: @escaping @Sendable (AttemptNumber) -> Void = { _ in }
    ) throws {
        handOver = Mutex(DestinationHandOver(session: session, timeouts: timeouts))
        self.machine = machine
        self.link = link
        self.peer = peer
        self.logger = logger
        self.record = record
        self.onVoid = onVoid
        self.onTakenBack = onTakenBack
        let pump = EventPump<Input> { [weak self] in self?.handle($0) }
        self.pump.withLock { $0 = pump }
        let table = try TimerTable { pump.submit(.event(.timer($0))) }
        timers.withLock { $0 = table }
    }

    func submit(_ input: Input) { pump.withLock { $0 }?.submit(input) }
    func submit(_ event: DestinationHandOver.Event) { submit(.event(event)) }

    /// Puts a person's wish, and returns when it was granted or not (`refusedWish`).
    func wish(_ event: DestinationHandOver.Event) {
        situation.update { $0.refusedWish = nil }
        pump.withLock { $0 }?.submitAndWait(.event(event))
    }

    /// Ends the timers. Not from a thread of the timers.
    func end() {
        timers.withLock { table in
            defer { table = nil }
            return table
        }?.end()
    }

    /// What a person may choose from, in doubt.
    var choices: HandOverChoices? { handOver.withLock { $0.choices } }

    /// Tells the source how long faults took.
    func sendTimes(_ times: PagingTimes) { link.send(.pagingTimes(times)) }

    // MARK: - Events in

    private func handle(_ input: Input) {
        let event: DestinationHandOver.Event
        switch input {
        case .event(let plain): event = plain
        case .linkUp(let generation):
            guard link.isCurrent(generation) else { return }
            lastHeard.withLock { $0 = .now }
            event = .linkUp
        case .heard(let generation, let message):
            guard link.isCurrent(generation) else { return }
            endOverdueSilence()
            note(message)
            event = .message(message)
        case .linkDown(let generation, let error):
            guard link.isCurrent(generation) else { return }
            situation.update { $0.lostLink = error }
            event = .linkDown
        }
        let actions = handOver.withLock { $0.handle(event) }
        for action in actions { perform(action) }
    }

    /// A process that was frozen finds a timer due and messages waiting, in either order. The timer comes first:
    /// a COMMIT that waited for longer than the silence allows may have been overtaken by a person's decision at the
    /// source (docs/hand-over.md). The source says it again on the next connection if it still holds.
    private func endOverdueSilence() {
        let silence = lastHeard.withLock { last in
            defer { last = .now }
            return MonotonicInstant.now - last
        }
        let actions = handOver.withLock { handOver in
            silence > handOver.timeouts.silence ? handOver.handle(.timer(.silence)) : []
        }
        for action in actions { perform(action) }
    }

    private func note(_ message: HandOverMessage) {
        stamps.withLock { stamps in
            switch message.body {
            case .final: stamps = Stamps(finalHeard: .now)
            case .commit: stamps.commitHeard = stamps.commitHeard ?? .now
            default: break
            }
        }
    }

    // MARK: - Actions out

    private func perform(_ action: DestinationHandOver.Action) {
        switch action {
        case .load(let attempt, let mode):
            situation.update { state in
                state.loadWanted = attempt
                state.loadMode = mode
            }
        case .cancelLoad:
            situation.update { state in
                state.loadCalledOff = state.loadWanted ?? self.handOver.withLock { $0.attempt }
                state.loadWanted = nil
            }
            // A load that waits for pages would wait for ever.
            onTakenBack(handOver.withLock { $0.attempt })
        case .lockDisks: lockDisks()
        case .releaseDisks: releaseDisks()
        case .runVM: run()
        case .pauseVM:
            do { _ = try machine.pause() } catch { logger.error("the VM could not be stopped: \(error)") }
            releaseDisks()
        // Its owner drops the VM itself once `run` has ended.
        case .discardCopy: releaseDisks()
        case .record(let phase): writeLedger(phase)
        case .note(let phase): try? record(ledger(phase))
        case .send(let message): send(message)
        case .startTimer(let timer, let duration): timers.withLock { $0?.start(timer, duration) }
        case .cancelTimer(let timer): timers.withLock { $0?.cancel(timer) }
        case .closeLink: link.close(because: TransportError(.closed, "\(peer) was silent for too long"))
        case .reportDoubt(let doubt):
            logger.warning("\(doubt.explanation)")
            situation.update { $0.doubt = doubt }
        case .doubtEnded: situation.update { $0.doubt = nil }
        case .stayStopped(let stop): situation.update { $0.stop = stop }
        case .object(let objection): situation.update { $0.refusedWish = objection }
        case .ignored(let message, let why):
            logger.debug("ignored \(message.body) of attempt \(message.attempt.rawValue): \(why)")
        case .ended(let outcome): situation.update { $0.outcome = outcome }
        }
    }

    private func run() {
        do {
            let entered = try machine.resume()
            stamps.withLock { $0.firstEntry = MonotonicInstant(nanoseconds: entered) }
            submit(.started)
            situation.update { $0.isRunning = true }
        } catch {
            logger.error("the VM could not be started: \(error)")
            submit(.startFailed)
        }
    }

    private func lockDisks() {
        do {
            try machine.lockDisks()
            submit(.disksLocked)
        } catch {
            logger.warning("the VM's disks could not be locked: \(error)")
            submit(.lockFailed)
        }
    }

    private func releaseDisks() {
        do { try machine.releaseDisks() } catch { logger.error("the VM's disks could not be released: \(error)") }
    }

    private func send(_ message: HandOverMessage) {
        if case .alive = message.body { return link.sendUnlessBusy(.handover(message)) }
        switch message.body {
        case .ready: stamps.withLock { $0.readySaid = .now }
        case .voided:
            // A copy that is kept, and may run by a decision, keeps what it misses.
            switch handOver.withLock({ $0.phase }) {
            case .receiving, .ended: onTakenBack(message.attempt)
            default: break
            }
            onVoid()
        case .running:
            // What the source cannot know travels with the news.
            link.send(.timings(timings), .handover(message))
            return
        default: break
        }
        link.send(.handover(message))
    }

    /// This side's share of the downtime.
    var timings: DestinationTimings {
        let stamps = stamps.withLock { $0 }
        func between(_ earlier: MonotonicInstant?, _ later: MonotonicInstant?) -> UInt64 {
            guard let earlier, let later else { return 0 }
            return (later - earlier).clampedNanoseconds
        }
        return DestinationTimings(
            lastPage: between(stamps.finalHeard, stamps.lastPage), load: between(stamps.lastPage, stamps.loaded),
            commitWait: between(stamps.readySaid, stamps.commitHeard),
            run: between(stamps.commitHeard, stamps.firstEntry), firstEntry: stamps.firstEntry?.nanoseconds ?? 0)
    }

    private func writeLedger(_ phase: HandOverLedger.Phase) {
        do {
            try record(ledger(phase))
            submit(.recorded(phase))
        } catch {
            logger.error("the decision could not be put on record: \(error)")
            submit(.recordFailed(phase))
        }
    }

    private func ledger(_ phase: HandOverLedger.Phase) -> HandOverLedger {
        handOver.withLock { $0.ledger(phase, machine: machine.configuration.name, peer: peer) }
    }
}
