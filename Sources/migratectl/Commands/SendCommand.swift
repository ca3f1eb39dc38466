/// `migratectl send`: asks a VM's process to move the VM, and follows it.

import ArgumentParser
import Control
import Glibc
import Migrate

private func parseMode(_ text: String) throws -> MigrationMode {
    guard let mode = MigrationMode(rawValue: text) else {
        throw ValidationError("There is no mode '\(text)': known are precopy, postcopy and hybrid.")
    }
    return mode
}

struct SendCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "send", abstract: "Move a running VM to a receiver.",
        discussion: """
            The VM's own process does the work. If this command is killed, the migration goes on: status shows it, cancel
            ends it. SIGINT and SIGTERM cancel the migration; the VM then runs on here.
            """)

    @OptionGroup var vm: VMArgument

    @Option(
        help: ArgumentHelp("Where a receiver listens: host:port, [v6]:port or unix:PATH.", valueName: "endpoint"))
    var to: String

    @Option(
        help: ArgumentHelp(
            "precopy: all pages go first. postcopy: the VM goes first, and needs both hosts until its last page has followed. "
                + "hybrid: precopy, and postcopy once the limits cannot be met otherwise.", valueName: "mode"),
        completion: .list(MigrationMode.allCases.map(\.rawValue)), transform: parseMode)
    var mode = MigrationMode.preCopy

    @Option(help: "Connections that carry pages, 1 to 16 (chosen from the cores by default).")
    var lanes: Int?

    @OptionGroup(title: "Limits") var limits: LimitOptions

    @Flag(help: "Send over a network although memory and state go unencrypted.")
    var insecure = false

    @Option(
        help: ArgumentHelp(
            "Keep a copy of everything sent in this directory, for migratectl inspect.", valueName: "directory"),
        completion: .directory)
    var record: String?

    @Flag(help: "Return when the migration is under way.")
    var detach = false

    @OptionGroup var output: OutputOptions

    func validate() throws {
        do { _ = try VMProcess.endpoint(to) } catch { throw ValidationError("\(error)") }
        if let lanes, !(1...16).contains(lanes) { throw ValidationError("A migration has 1 to 16 lanes.") }
    }

    func run() throws {
        let client = try vm.client()
        try Signals.watch { number in
            Output.note("migratectl: \(Signals.name(number)): cancelling; the VM runs on here")
            do { try client.cancelMigration() } catch { Output.note("migratectl: \(error)") }
        }
        if let record, mkdir(record, 0o700) != 0, errno != EEXIST {
            throw CommandError(.failure, "cannot make the directory \(record): \(String(cString: strerror(errno)))")
        }
        let started = try client.startMigration(
            SendRequest(
                destination: to, lanes: lanes, limits: limits.payload, insecure: insecure,
                mode: mode == .preCopy ? nil : mode,
                recordDirectory: record.map(Self.absolute)))
        if detach {
            if output.json { try Output.json(started) }
            return Output.note(
                "migratectl: \(vm.name) is on its way to \(to): migratectl status \(vm.name) shows how far")
        }
        let last = try follow(client)
        if output.json {
            try Output.jsonLine(last)
        } else if let report = last.report, last.state == .completed {
            try Output.line(MigrationText.summary(of: report))
        }
        let status = ExitStatus(last.state)
        guard status == .success else {
            throw CommandError(status, MigrationText.failure(last, vm.name))
        }
    }

    /// The VM's process has a working directory of its own.
    private static func absolute(_ path: String) -> String {
        guard !path.hasPrefix("/"), let here = getcwd(nil, 0) else { return path }
        defer { free(here) }
        return String(cString: here) + "/" + path
    }

    private func follow(_ client: ControlClient) throws -> MigrationStatus {
        var lastText = ""
        return try client.followMigration { status in
            guard status.state.isUnderWay, let text = MigrationText.progress(status) else { return true }
            // One line a second: on a terminal, in a file, for a program all the same.
            if output.json {
                try? Output.jsonLine(status)
            } else if text != lastText {
                Output.note(text)
                lastText = text
            }
            return true
        }
    }
}
