/// `migratectl status`: everything about one VM.

import ArgumentParser
import Control
import FoundationEssentials
import Migrate

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status", abstract: "Show a VM and its migration.")

    @OptionGroup var vm: VMArgument
    @OptionGroup var output: OutputOptions

    func run() throws {
        let status = try vm.client().status()
        if output.json { return try Output.json(status) }
        var lines = [
            "name        \(status.name)",
            "state       \(Self.word(for: status))",
            "guest       \(status.guest), \(Format.bytes(status.memoryBytes)) (\(status.memoryBacking)), \(status.vcpus) vCPU"
                + (status.vcpus == 1 ? "" : "s"),
            "dirty log   \(status.dirtyTracker)",
            "process     \(status.processID), for \(Format.elapsed(Date().timeIntervalSince(status.startedAt)))",
        ]
        if let console = status.console { lines.append("console     \(console)") }
        if let listening = status.listening { lines.append("listening   \(listening)") }
        if let message = status.message { lines.append("note        \(message)") }
        if let migration = status.migration, migration.state != .none {
            let way = migration.direction == .incoming ? "from" : "to"
            lines.append("migration   \(migration.state.rawValue), \(way) \(migration.peer ?? "nobody yet")")
            if migration.state.isUnderWay, let text = MigrationText.progress(migration) {
                lines.append("            \(text)")
            }
            if let message = migration.message { lines.append("            \(message)") }
            if let choices = migration.choices {
                lines.append("  keep      \(choices.keep)")
                lines.append("  discard   \(choices.discard)")
            }
        }
        try Output.line(lines.joined(separator: "\n"))
    }

    /// The state as `ps` shows it: a VM that is being sent runs, but that is not all of it.
    static func word(for status: VMStatus) -> String {
        guard status.state == .running, status.migration?.state == .active, status.migration?.direction == .outgoing
        else {
            return status.state.rawValue
        }
        return "sending"
    }
}
