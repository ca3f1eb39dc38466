/// `migratectl cancel`, `set` and `resolve`: what can be done to a migration that is under way.

import ArgumentParser
import Control
import Glibc

struct CancelCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cancel", abstract: "End a migration; the VM runs on at its source.",
        discussion: "Works on both sides, until the VM is given away. Returns when the migration has ended.")

    @OptionGroup var vm: VMArgument
    @OptionGroup var output: OutputOptions

    func run() throws {
        let client = try vm.client()
        let before = try client.migration()
        try client.cancelMigration()
        // A receiver ends with its migration, and then there is nobody to ask.
        guard before.direction == .outgoing else { return }
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

struct ResolveCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resolve",
        abstract: "Decide about a VM that a broken hand-over left standing still on both sides.",
        discussion: """
            Both sides reconnect by themselves as soon as they can, and then nothing needs to be decided. Only if the other
            side is dead for good, and stays dead, may this side's copy run: two running copies of one VM destroy what they
            share. If you drop this side's copy and the other one is gone as well, the VM is lost.
            """)

    enum Decision: String, ExpressibleByArgument, CaseIterable {
        case keep, discard
    }

    @OptionGroup var vm: VMArgument

    @Argument(help: "keep: this side is the VM from now on. discard: this side's copy is dropped.")
    var decision: Decision

    @Flag(name: .customLong("i-know-the-other-side-is-dead"), help: "The word that only a person can give.")
    var otherSideIsDead = false

    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard otherSideIsDead else {
            throw ValidationError(
                decision == .keep
                    ? "If the other side is not dead, the VM will run twice. Check, and say --i-know-the-other-side-is-dead."
                    : "If the other side is dead, dropping this copy loses the VM. Check, and say "
                        + "--i-know-the-other-side-is-dead if you want that nevertheless.")
        }
    }

    func run() throws {
        let client = try vm.client()
        try client.resolve(
            ResolveRequest(decision: decision == .keep ? .keep : .discard, otherSideIsDead: otherSideIsDead))
        if output.json, let status = try? client.status() { try Output.json(status) }
    }
}
