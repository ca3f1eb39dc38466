/// `migratectl receive`: waits for a VM, and runs it.

import ArgumentParser
import Control
import Glibc
import Machine
import Migrate
import Synchronization
import Units
import VMState

struct ReceiveCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "receive", abstract: "Wait for a VM, and run it in this process.",
        discussion: """
            The receiver is listed as incoming-PID until the VM runs here. It then takes the VM's own name, as soon as that
            is free: on one host the sender holds it until it has ended. --name gives the VM another name, and holds that
            from the start.
            """)

    @Option(
        help: ArgumentHelp(
            "Where to listen: [host:]port, [v6]:port or unix:PATH. Port 0 lets the kernel choose. Without a host only this "
                + "machine can connect.", valueName: "endpoint"))
    var listen: String

    @Option(help: "The name that the VM has here (its own by default).")
    var name: String?

    @Flag(help: "Listen beyond this machine although memory and state come unencrypted.")
    var insecure = false

    @Option(
        help: ArgumentHelp(
            "Make memory for a VM of this size resident before it comes, so that its migration need not wait for that.",
            valueName: "size"), transform: parseSize)
    var preallocate: ByteCount?

    @Option(
        name: .customLong("disk"),
        help: ArgumentHelp(
            "Where the VM's disk number N (from 0) is on this host.",
            valueName: "N=path"), transform: parseNumbered)
    var disks: [Numbered] = []

    @Option(
        name: .customLong("net"),
        help: ArgumentHelp(
            "Which tap interface its network card number N has on this host.",
            valueName: "N=tap=name"), transform: parseNumberedTap)
    var networks: [Numbered] = []

    @Flag(
        help: ArgumentHelp(
            "Open the disks and taps that the source names, where none is named here.",
            discussion: "Whoever may send can then have its guest read and write any file that this process can."))
    var trustPaths = false

    @OptionGroup(title: "This host") var host: HostArguments
    @OptionGroup var output: OutputOptions

    func validate() throws {
        do {
            if let name { _ = try VMName(name) }
            let endpoint = try VMProcess.endpoint(listen)
            guard endpoint.isLocal || insecure else {
                throw ValidationError(
                    "Listening on \(endpoint) would take VMs from anybody who can reach it, unencrypted: say --insecure if you "
                        + "trust that network, or listen on this machine only (leave the host out) behind a tunnel.")
            }
        } catch let error as ControlError {
            throw ValidationError(error.message)
        }
        if let preallocate, let problem = GuestMemoryLayout.problem(with: preallocate) {
            throw ValidationError("--preallocate: \(problem).")
        }
        for (option, list) in [("--disk", disks), ("--net", networks)] {
            let numbers = list.map(\.number)
            if Set(numbers).count < numbers.count {
                throw ValidationError("\(option): the same number is there twice.")
            }
        }
        if output.json, host.serial == .stdio {
            throw ValidationError("Both --json and --serial stdio want standard output.")
        }
    }

    /// What `--json` prints, a line each, as it happens.
    private struct Event: Encodable {
        var event: String
        var listening: String?
        var name: String
        var control: String
        var received: ReceiveReport?
    }

    func run() throws {
        let wanted = try name.map { try VMName($0) }
        let host = host.settings
        try VMStarter.checkKVM(host)
        let starter = try VMStarter(
            name: wanted ?? VMName(incoming: getpid()), host: host, guestName: VMProcess.unknownGuest)
        let process = starter.process
        let reserve: MachineReserve?
        let listener: Listener
        do {
            reserve = try preallocate.map { size in
                try MachineReserve(memory: size, host: starter.host) { process.state.withLock { $0.end != nil } }
            }
        } catch {
            starter.abandon()
            throw CommandError(.failure, "cannot preallocate memory: \(error)")
        }
        // Touching memory takes its time, and a signal may have come meanwhile.
        guard process.state.withLock({ $0.end == nil }) else {
            starter.abandon()
            throw CommandError(.cancelled, "the receiver was stopped before a VM came")
        }
        do { listener = try Self.makeListener(VMProcess.endpoint(listen)) } catch {
            starter.abandon()
            throw CommandError(.cannotListen, "\(error)")
        }
        var options = starter.host
        for disk in disks { options.diskPaths[disk.number] = disk.text }
        for network in networks { options.tapNames[network.number] = network.text }
        options.opensWhatSourceNames = trustPaths
        let builder = ReceivingBuilder(
            local: LocalMachineBuilder(host: options, reserve: reserve, logger: host.logger), name: wanted,
            process: process)
        let incoming = IncomingMigration(
            listener: listener, builder: builder,
            options: ReceiveOptions(
                recordLedger: { [process] in try process.recordLedger($0) },
                findLedger: { [process] in process.deadReceiversLedger($0) }), logger: host.logger)
        process.state.withLock { state in
            state.phase = .receiving
            state.incoming = incoming
            state.endpoint = listener.endpoint
        }
        Output.note("migratectl: waiting for a VM on \(listener.endpoint), as \(process.claim.name)")
        try tell("listening", process, listening: listener.endpoint)
        try PlainThread.detached(name: "receive") { receive(incoming, starter) }
        let status = try starter.goOn()
        guard status == .success else { throw CommandError(status, "") }
    }

    /// Listens, over the dead body of a receiver that was killed and left its UNIX socket behind.
    private static func makeListener(_ endpoint: Endpoint) throws -> Listener {
        do {
            return try Listener(endpoint)
        } catch let error as TransportError {
            guard error.code == .cannotListen, case .unix(let path) = endpoint, ControlClient.isStaleSocket(path) else {
                throw error
            }
            unlink(path)
            return try Listener(endpoint)
        }
    }

    /// On a thread of its own, as it blocks until the VM runs here.
    private func receive(_ incoming: IncomingMigration, _ starter: VMStarter) {
        let process = starter.process
        do {
            let (received, result) = try incoming.run()
            guard let machine = received as? Machine else {
                return process.end(.notReceived(.failure, "the VM that came is of no kind that runs here"))
            }
            var report = result
            let warnings = machine.stateWarnings.map(\.description)
            for warning in warnings { Output.note("migratectl: \(warning)") }
            if !warnings.isEmpty { report.warnings = warnings }
            process.state.withLock { state in
                state.phase = .running
                state.peer = report.peer
                state.last = MigrationStatus(
                    state: .completed, direction: .incoming, peer: report.peer, receiving: incoming.progress,
                    received: report)
            }
            process.noteMigrationEnd()
            // The VM runs here and nowhere else: from now on nothing may end this process but the VM's own end.
            while true {
                do {
                    try process.adopt(machine)
                    break
                } catch {
                    Output.note("migratectl: cannot watch the VM yet: \(error)")
                    sleep(1)
                }
            }
            // In post-copy the sender is there until the last page has come.
            let isFollowed = incoming.progress?.pagesMissing != nil
            takeName(of: machine, process, patience: isFollowed ? 1 : 200)
            starter.announce(machine)
            do { try tell("running", process, received: report) } catch {
                Output.note("migratectl: standard output takes nothing more; the VM runs on")
            }
            // The session is kept until the source knows that its copy is void.
            while !incoming.isSettled, process.state.withLock({ $0.end == nil }) { usleep(100_000) }
            // When the process ends, its end sees to the source hearing that the VM had run.
            guard process.state.withLock({ $0.end == nil }) else { return }
            incoming.close()
            if isFollowed { takeName(of: machine, process, patience: 200) }
            // The session's tables and the listener's place are not kept for as long as the VM runs.
            process.state.withLock { state in
                state.incoming = nil
                state.endpoint = nil
            }
        } catch let error as ReceiveError {
            let status: ExitStatus =
                switch error.code {
                case .peerLost: .peerLost
                case .dropped: .dropped
                default: .cancelled
                }
            process.end(.notReceived(status, error.message))
        } catch {
            process.end(.notReceived(.failure, "\(error)"))
        }
    }

    /// Gives the process the name of its VM. The sender on the same host holds it until it has ended.
    private func takeName(of machine: Machine, _ process: VMProcess, patience: Int) {
        guard process.claim.name.isIncoming, let name = try? VMName(machine.configuration.name) else { return }
        for _ in 0..<patience {
            do {
                return try process.claim.rename(to: name)
            } catch {
                guard error.code == .nameTaken, process.state.withLock({ $0.end == nil }) else { break }
                guard patience > 1 else { return }
                usleep(50_000)
            }
        }
        let text =
            "the name \(name) is taken on this host by another VM; here it is \(process.claim.name) (receive with --name to "
            + "choose a name)"
        process.state.withLock { $0.message = text }
        Output.note("migratectl: \(text)")
    }

    private func tell(
        _ event: String, _ process: VMProcess, listening: Endpoint? = nil, received: ReceiveReport? = nil
    ) throws {
        guard output.json else { return }
        try Output.jsonLine(
            Event(
                event: event, listening: listening?.description, name: process.claim.name.description,
                control: process.claim.socketPath, received: received))
    }
}

/// Builds the machine that comes, under the name that it will have here, and tells the process what it will be.
private struct ReceivingBuilder: MachineBuilder {
    let local: LocalMachineBuilder
    let name: VMName?
    let process: VMProcess

    func makeMachine(for configuration: MachineConfiguration) throws -> any MigratableMachine {
        var configuration = configuration
        // The name comes from a stranger, and becomes a file name here.
        configuration.name = try name?.description ?? VMName(configuration.name).description
        let machine = try local.makeLocalMachine(for: configuration)
        process.state.withLock { state in
            state.memoryBytes = configuration.memory.reduce(0) { $0 + $1.byteCount }
            state.vcpus = configuration.vcpuCount
            state.identifier = configuration.identifier
        }
        return machine
    }
}
