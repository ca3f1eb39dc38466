/// Puts the process of a VM together: signals, name, console, control server.

import Control
import Glibc
import KVM
import Logging
import Machine
import Migrate
import Synchronization

/// What `run` and `receive` do before the VM runs.
final class VMStarter: Sendable {
    let process: VMProcess
    let host: HostOptions
    private let arguments: HostSettings
    private let console: ConsoleServer?
    private let server: ControlServer

    /// Takes the name and begins to answer the control API.
    init(name: VMName, host arguments: HostSettings, guestName: String) throws {
        self.arguments = arguments
        // The watch needs the process, which needs the name: a signal before that ends the program as it always does.
        let claim = try NameClaim(name, in: .standard())
        let watch = GuestWatch()
        let relay = SerialRelay(watch: watch, mode: arguments.serial)
        host = HostOptions(
            memoryBacking: arguments.memoryBacking, dirtyTracker: arguments.dirtyTracker,
            serialSink: { relay.deliver($0) }, kvmPath: arguments.kvmPath)
        let process = try VMProcess(
            claim: claim, host: host, guestName: guestName, watch: watch, hasConsole: arguments.serial == .socket,
            logger: arguments.logger)
        self.process = process
        try Signals.watch { process.signalled($0) }
        console =
            arguments.serial == .socket
            ? try ConsoleServer(claim: claim) { process.state.withLock { $0.machine }?.sendSerialInput($0) ?? $0.count }
            : nil
        relay.connect(console)
        server = try ControlServer(claim: claim, vm: process)
    }

    /// Checks that VMs can run here at all, for those who do not make one yet.
    static func checkKVM(_ arguments: HostSettings) throws {
        do { _ = try KVMSystem(path: arguments.kvmPath) } catch { throw noKVM(error) }
    }

    private static func noKVM(_ error: KVMError) -> CommandError {
        CommandError(.noKVM, "\(error). What this host lacks, and how to get it: migratectl doctor")
    }

    /// Makes the machine, and turns what the libraries throw into one line and an exit code.
    func makeMachine(_ make: (HostOptions) throws -> Machine) throws -> Machine {
        do {
            return try make(host)
        } catch let error as KVMError where error.subject == arguments.kvmPath {
            throw Self.noKVM(error)
        } catch let error as MachineError where error.code == .invalidOptions {
            throw CommandError(.usage, error.message)
        } catch {
            throw CommandError(.failure, "\(error)")
        }
    }

    /// Leaves nothing behind of a process that has no VM to run after all.
    func abandon() {
        server.stop(grace: .milliseconds(200))
        console?.stop()
        process.claim.release()
    }

    /// Runs a new machine to its end.
    func run(_ machine: Machine) throws -> ExitStatus {
        try process.adopt(machine)
        do { _ = try machine.resume() } catch { throw CommandError(.failure, "\(error)") }
        process.state.withLock { if $0.end == nil { $0.phase = .running } }
        announce(machine)
        return try goOn()
    }

    /// Sees a VM through that is here already, or is yet to come.
    func goOn() throws -> ExitStatus {
        if arguments.serial == .stdio { passStandardInput() }
        return try process.seeThrough(server: server, console: console, reportFile: arguments.report)
    }

    /// The VM runs: says so, and settles down to what that takes.
    func announce(_ machine: Machine) {
        defer { ProgramCode.trim() }
        let memory = machine.configuration.memory.reduce(0) { $0 + $1.byteCount }
        let cpus = machine.configuration.vcpuCount
        Output.note(
            "migratectl: \(process.claim.name) runs: \(Format.bytes(memory)), \(cpus) vCPU\(cpus == 1 ? "" : "s"), control "
                + "socket \(process.claim.socketPath)")
    }

    private func passStandardInput() {
        let process = process
        try? PlainThread.detached(name: "stdin") {
            var buffer = [UInt8](repeating: 0, count: 4096)
            while true {
                let count = read(STDIN_FILENO, &buffer, buffer.count)
                guard count > 0 else { return }
                var rest = buffer[..<count]
                while !rest.isEmpty {
                    guard let machine = process.state.withLock({ $0.machine }) else { break }
                    rest = rest.dropFirst(machine.sendSerialInput(Array(rest)))
                    if !rest.isEmpty { usleep(10_000) }
                }
            }
        }
    }
}
