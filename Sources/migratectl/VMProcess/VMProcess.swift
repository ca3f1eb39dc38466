/// The process of one VM: what `run` and `receive` are once they are under way. It owns the machine, answers the control
/// API, and knows how the process will end.

import Control
import FoundationEssentials
import Glibc
import KVM
import Logging
import Machine
import Migrate
import SelfTest
import Synchronization

/// How the VM's process ends.
enum ProcessEnd: Equatable {
    /// The guest or the machine came to its end.
    case guest(MachineOutcome)
    /// A person or a signal stopped the VM.
    case stopped
    /// The VM runs elsewhere.
    case moved(to: String)
    /// A person dropped this side's copy.
    case dropped
    /// A receiver has no VM; why.
    case notReceived(ExitStatus, String)
}

final class VMProcess: ControlledVM {
    struct State {
        var phase = VMStatus.State.starting
        var machine: Machine?
        /// What the machine will be, before there is one.
        var memoryBytes: UInt64 = 0
        var vcpus = 0
        var identifier: [UInt8]?
        var message: String?
        var outgoing: OutgoingMigration?
        var incoming: IncomingMigration?
        var peer: String?
        var guestName: String
        /// Where the receiver listens.
        var endpoint: Endpoint?
        /// The last migration, when it is over.
        var last = MigrationStatus.none
        var end: ProcessEnd?
    }

    let state: Mutex<State>
    /// Counts the migrations that ended here.
    let migrationEnds = Monitor<UInt64>(0)
    let claim: NameClaim
    let host: HostOptions
    let logger: Logger
    let watch: GuestWatch
    private let startedAt = Date()
    private let hasConsole: Bool
    private let ended: Gate

    init(claim: NameClaim, host: HostOptions, guestName: String, watch: GuestWatch, hasConsole: Bool, logger: Logger)
        throws
    {
        ended = try Gate()
        self.claim = claim
        self.host = host
        state = Mutex(State(guestName: guestName))
        self.watch = watch
        self.hasConsole = hasConsole
        self.logger = logger
    }

    // MARK: The end

    /// Decides how the process ends; the first decision counts.
    func end(_ end: ProcessEnd) {
        let isFirst = state.withLock { state in
            guard state.end == nil else { return false }
            state.end = end
            state.phase =
                switch end {
                case .moved: .moved
                case .guest(.failed), .guest(.shutdown): .failed
                default: .stopped
                }
            return true
        }
        if isFirst { ended.open() }
    }

    /// Waits for `end`.
    func waitForEnd() -> ProcessEnd {
        ended.wait()
        return state.withLock { $0.end } ?? .stopped
    }

    /// The machine runs from here on: whatever happens to it is the process's end.
    func adopt(_ machine: Machine) throws {
        state.withLock { state in
            state.machine = machine
            state.memoryBytes = machine.configuration.memory.reduce(0) { $0 + $1.byteCount }
            state.vcpus = machine.configuration.vcpuCount
            state.identifier = machine.configuration.identifier
        }
        // Not under the lock: in post-copy a look into the guest's memory waits for the page.
        if state.withLock({ $0.guestName }) == Self.unknownGuest, Self.hasTestGuest(machine) {
            state.withLock { $0.guestName = "selftest" }
        }
        try PlainThread.detached(name: "outcome") { [self] in
            let outcome = machine.waitForOutcome()
            // A migration that is under way ends with the guest: it cannot move what has ended.
            state.withLock { $0.outgoing }?.cancel()
            end(.guest(outcome))
        }
    }

    /// What a guest is called before anybody has looked: a stream does not say what runs in the VM.
    static let unknownGuest = "unknown"

    private static func hasTestGuest(_ machine: Machine) -> Bool {
        let count = SelfTestImage.sharedByteCount(cpuCount: machine.configuration.vcpuCount)
        guard let bytes = try? machine.readMemory(at: SelfTestImage.sharedAddress, byteCount: count) else {
            return false
        }
        return SelfTestHeartbeat(bytes.span.bytes) != nil
    }

    // MARK: ControlledVM

    func status() -> VMStatus {
        let migration = migration()
        return state.withLock { state in
            VMStatus(
                name: claim.name.description, identifier: state.identifier.map(Self.hexadecimal),
                state: migration.state == .doubt ? .doubt : state.phase, message: state.message, processID: getpid(),
                startedAt: startedAt, memoryBytes: state.memoryBytes, vcpus: state.vcpus,
                memoryBacking: host.memoryBacking.rawValue, dirtyTracker: host.dirtyTracker.rawValue,
                guest: state.guestName,
                console: hasConsole ? claim.consolePath : nil,
                listening: state.phase == .receiving ? state.endpoint?.description : nil, migration: migration)
        }
    }

    private static func hexadecimal(_ bytes: [UInt8]) -> String {
        bytes.map { byte in
            let digits = String(byte, radix: 16)
            return digits.count < 2 ? "0" + digits : digits
        }.joined()
    }

    func pause() throws(ControlError) {
        let machine = try machine(in: .running, "pause")
        do { _ = try machine.pause() } catch { throw ControlError(.wrongState, "\(error)") }
        state.withLock { if $0.phase == .running { $0.phase = .paused } }
    }

    func resume() throws(ControlError) {
        let machine = try machine(in: .paused, "resume")
        // The hand-over may have stopped it, too: it must not run while the other side may.
        if state.withLock({ $0.incoming })?.choices != nil {
            throw ControlError(
                .wrongState,
                "VM \(claim.name) stands still until its hand-over is decided: migratectl status \(claim.name) says why."
            )
        }
        do { _ = try machine.resume() } catch { throw ControlError(.wrongState, "\(error)") }
        state.withLock { if $0.phase == .paused { $0.phase = .running } }
    }

    func stop() throws(ControlError) {
        let (outgoing, incoming, phase) = state.withLock { ($0.outgoing, $0.incoming, $0.phase) }
        // A VM that a person has kept here is nobody else's; what was decided stays on record.
        if let outgoing, migration().state.isUnderWay, !outgoing.cancel() {
            throw ControlError(
                .wrongState,
                "VM \(claim.name) is being handed over, and cannot be stopped here any more: stop it at "
                    + "\(state.withLock { $0.peer } ?? "its destination").")
        }
        if phase == .receiving, let incoming {
            guard incoming.cancel() else {
                throw ControlError(
                    .wrongState,
                    "The VM may be given to this side at any moment: it cannot be refused any more. Stop it when "
                        + "it runs, or decide with: migratectl resolve \(claim.name)")
            }
            // The receiver's own thread ends the process, with its reason.
            return
        }
        end(.stopped)
    }

    func guestReport(_ request: GuestReportRequest) throws(ControlError) -> any Encodable & Sendable {
        let machine = try machine(in: .running, "ask the guest")
        return try watch.ask(request, isAlive: { machine.outcome == nil && state.withLock { $0.end == nil } }) {
            machine.sendSerialInput($0)
        }
    }

    /// The machine, if the VM is in the state that a call needs.
    func machine(in phase: VMStatus.State, _ purpose: String) throws(ControlError) -> Machine {
        let (machine, now, outgoing) = state.withLock { ($0.machine, $0.phase, $0.outgoing) }
        guard let machine, now == phase else {
            throw ControlError(
                .wrongState, "Cannot \(purpose): VM \(claim.name) is \(now.rawValue), not \(phase.rawValue).")
        }
        if let outgoing, !outgoing.isKeptHere, purpose == "pause" {
            throw ControlError(
                .wrongState,
                "Cannot pause: VM \(claim.name) is being moved. Cancel that first: migratectl cancel \(claim.name)")
        }
        return machine
    }
}
