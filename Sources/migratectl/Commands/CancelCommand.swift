/// `migratectl cancel`, `switch` and `set`: what can be done to a migration that is under way.

import ArgumentParser
import Control
import Glibc

struct CancelCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cancel", abstract: "End a migration; the VM runs on at its source.",
        discussion: """
            Works on both sides, until the VM is given away. At the source it returns when the migration has ended; a
            receiver is told, and its process ends.
            """)

    @OptionGroup var vm: VMArgument
    @OptionGroup var output: OutputOptions

    func run() throws {
        let client = try vm.client()
        let before = try client.migration()
        try client.cancelMigration()
        // A receiver ends with its migration, and then there is nobody to ask.
        guard before.direction == .outgoing else {
            if output.json {
                try Output.json(MigrationStatus(state: .cancelled, direction: before.direction, peer: before.peer))
            }
            return
        }
        let last = try client.followMigration { _ in true }
        if output.json { try Output.json(last) }
        guard last.state == .cancelled else {
            throw CommandError(
                .wrongState,
                "the migration of \(vm.name) was not cancelled, it ended before: \(last.message ?? last.state.rawValue)"
            )
        }
    }
}

struct SwitchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "switch", abstract: "Hand a VM over now, and let its pages follow.",
        discussion: """
            For a migration that was begun with --mode hybrid. The VM stands still for milliseconds, whatever it writes; until
            its last page has followed it needs both hosts, and the migration cannot be cancelled.
            """)

    @OptionGroup var vm: VMArgument

    func run() throws { try vm.client().switchToPostCopy() }
}

struct SetCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "set", abstract: "Change the limits of a migration while it is under way.")

    @OptionGroup var vm: VMArgument
    @OptionGroup(title: "Limits") var limits: LimitOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
        if limits.payload.isEmpty { throw ValidationError("Say which limit to change, such as --max-downtime 50ms.") }
    }

    func run() throws {
        let now = try vm.client().setLimits(limits.payload)
        if output.json { try Output.json(now) }
    }
}
