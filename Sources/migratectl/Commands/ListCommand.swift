/// `migratectl ps`: the VMs of this host (of this user).

import ArgumentParser
import Control
import FoundationEssentials

struct ListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ps", abstract: "List the VMs that run here.",
        discussion: "Lists what runs in this user's runtime directory ($MIGRATECTL_RUNTIME_DIR). See docs/cli.md.")

    @Flag(help: "Print names only.")
    var names = false

    @OptionGroup var output: OutputOptions

    func run() throws {
        let directory = try RuntimeDirectory.standard()
        let running = try directory.runningNames()
        if names { return try running.forEach { try Output.line($0.description) } }
        // One that ends just now is not listed.
        let statuses = running.compactMap { try? ControlClient($0, in: directory).status() }
        if output.json { return try Output.json(statuses) }
        guard !statuses.isEmpty else { return Output.note("migratectl: no VM runs here (in \(directory.path))") }
        var table = Table(["NAME", "STATE", "MEMORY", "CPUS", "GUEST", "PID", "UP"])
        for status in statuses {
            table.add([
                status.name, StatusCommand.word(for: status), Format.bytes(status.memoryBytes), "\(status.vcpus)",
                status.guest,
                "\(status.processID)", Format.elapsed(Date().timeIntervalSince(status.startedAt)),
            ])
        }
        try Output.line(table.text)
    }
}
