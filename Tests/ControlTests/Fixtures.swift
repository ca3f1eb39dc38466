import Control
import Foundation
import Synchronization

/// A VM without a machine below it: it records what it was asked, and its migration does what the test says.
final class StandInVM: ControlledVM {
    struct State {
        var status: VMStatus
        var migration = MigrationStatus.none
        var calls: [String] = []
    }
    let state: Mutex<State>

    init(name: String = "vm1") {
        state = Mutex(
            State(
                status: VMStatus(
                    name: name, identifier: "00ff", state: .running, processID: getpid(),
                    startedAt: Date(timeIntervalSince1970: 1_700_000_000), memoryBytes: 256 << 20, vcpus: 2,
                    memoryBacking: "anon", dirtyTracker: "bitmap", guest: "selftest")))
    }

    var calls: [String] { state.withLock { $0.calls } }
    func set(_ change: (inout sending State) -> Void) { state.withLock { change(&$0) } }

    func status() -> VMStatus { state.withLock { $0.status } }
    func pause() throws(ControlError) { try change(from: .running, to: .paused, "pause") }
    func resume() throws(ControlError) { try change(from: .paused, to: .running, "resume") }
    func stop() throws(ControlError) { set { $0.calls.append("stop") } }

    private func change(from: VMStatus.State, to: VMStatus.State, _ call: String) throws(ControlError) {
        let done = state.withLock { state in
            state.calls.append(call)
            guard state.status.state == from else { return false }
            state.status.state = to
            return true
        }
        if !done { throw ControlError(.wrongState, "Cannot \(call): the VM is not \(from.rawValue).") }
    }

    func startMigration(_ request: SendRequest) throws(ControlError) -> MigrationStatus {
        state.withLock { state in
            state.calls.append("send \(request.destination) lanes \(request.lanes ?? 0)")
            state.migration = MigrationStatus(state: .active, direction: .outgoing, peer: request.destination)
            state.migration.limits = request.limits
            return state.migration
        }
    }

    func migration() -> MigrationStatus { state.withLock { $0.migration } }
    func awaitMigrationEnd(timeout: Duration) {
        let end = ContinuousClock.now + timeout
        while migration().state.isUnderWay, ContinuousClock.now < end { usleep(2000) }
    }
    func switchToPostCopy() throws(ControlError) {
        state.withLock { $0.calls.append("switch") }
    }
    func cancelMigration() throws(ControlError) {
        let active = state.withLock { state in
            state.calls.append("cancel")
            guard state.migration.state == .active else { return false }
            state.migration.state = .cancelled
            return true
        }
        if !active { throw ControlError(.wrongState, "There is no migration to cancel.") }
    }
    func setLimits(_ limits: MigrationLimitsPayload) throws(ControlError) -> MigrationLimitsPayload {
        set { $0.calls.append("set") }
        return limits
    }
    func resolve(_ request: ResolveRequest) throws(ControlError) {
        set { $0.calls.append("resolve \(request.decision.rawValue)") }
    }
    func guestReport(_ request: GuestReportRequest) throws(ControlError) -> any Encodable & Sendable {
        ["wrongPages": request.verify ? 0 : -1]
    }
}

/// A private runtime directory that goes away with the test.
final class Scratch {
    let directory: RuntimeDirectory

    init() throws {
        // Short: socket paths have 107 bytes.
        let path = "/tmp/mct-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        directory = try RuntimeDirectory(path: path)
        try directory.prepare()
    }

    deinit { try? FileManager.default.removeItem(atPath: directory.path) }
}

/// A server with a stand-in VM behind it.
final class TestServer {
    let scratch: Scratch
    let vm: StandInVM
    let claim: NameClaim
    let server: ControlServer
    let client: ControlClient

    init(limits: ControlServer.Limits = .init()) throws {
        scratch = try Scratch()
        vm = StandInVM()
        claim = try NameClaim(VMName("vm1"), in: scratch.directory)
        server = try ControlServer(claim: claim, vm: vm, limits: limits)
        client = try ControlClient(VMName("vm1"), in: scratch.directory)
    }

    deinit {
        server.stop(grace: .milliseconds(100))
        claim.release()
    }

    /// Sends bytes as they are and returns everything that comes back until the server closes.
    func raw(_ text: String, thenWait wait: Duration = .seconds(5)) throws -> String {
        let socket = try UnixSocket.connect(to: claim.socketPath, timeout: .seconds(1))
        _ = socket.write(Array(text.utf8), until: Deadline(after: .seconds(5)))
        return read(socket, wait)
    }

    func read(_ socket: UnixSocket, _ wait: Duration) -> String {
        var answer: [UInt8] = []
        let deadline = Deadline(after: wait)
        while let bytes = socket.read(atMost: 4096, until: deadline), !bytes.isEmpty { answer += bytes }
        return String(decoding: answer, as: UTF8.self)
    }
}
