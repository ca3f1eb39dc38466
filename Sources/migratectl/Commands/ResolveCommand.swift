/// `migratectl resolve`: what a person decides about a hand-over that cannot go on by itself.

import ArgumentParser
import Control
import Logging
import Migrate

struct ResolveCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "resolve",
        abstract: "Decide about a VM that a broken hand-over left standing still on both sides.",
        discussion: """
            Both sides reconnect by themselves as soon as they can, and then nothing needs to be decided. Only if the other
            side is dead for good, and stays dead, may this side's copy run: two running copies of one VM destroy what they
            share. If you drop this side's copy and the other one is gone as well, the VM is lost. migratectl status says
            what each decision would cost.

            If this side is the source, its process has died, and its last word is on record, finish says that word again:
            the VM then runs at the destination, which stood ready for it. That needs no decision.
            """)

    enum Decision: String, ExpressibleByArgument, CaseIterable {
        case keep, discard, finish
    }

    @OptionGroup var vm: VMArgument

    @Argument(
        help: "keep: this side is the VM from now on. discard: this side's copy is dropped. finish: see above.")
    var decision: Decision

    @Flag(name: .customLong("i-know-the-other-side-is-dead"), help: "The word that only a person can give.")
    var otherSideIsDead = false

    @OptionGroup var output: OutputOptions

    func validate() throws {
        guard otherSideIsDead || decision == .finish else {
            throw ValidationError(
                decision == .keep
                    ? "If the other side is not dead, the VM will run twice. Check, and say --i-know-the-other-side-is-dead."
                    : "If the other side is dead, dropping this copy loses the VM. Check, and say "
                        + "--i-know-the-other-side-is-dead if you want that nevertheless.")
        }
    }

    func run() throws {
        let client = try vm.client()
        do throws(ControlError) {
            _ = try client.status()
        } catch {
            guard error.code == .vmNotFound else { throw error }
            return try resolveForTheDead()
        }
        if decision == .finish {
            throw CommandError(
                .wrongState, "the process of \(vm.name) lives: it finishes by itself as soon as the other side answers")
        }
        try client.resolve(
            ResolveRequest(decision: decision == .keep ? .keep : .discard, otherSideIsDead: otherSideIsDead))
        if output.json, let status = try? client.status() { try Output.json(status) }
    }

    /// The VM's process has died. What it put on record is all that is left.
    private func resolveForTheDead() throws {
        let directory = try RuntimeDirectory.standard()
        let store = HandOverLedgerStore(directory: directory.path)
        let (ledgers, faults) = try store.readAll()
        for fault in faults { Output.note("migratectl: \(fault)") }
        // A name can be on record several times: what its destination still has to hear counts most.
        let own = ledgers.filter { $0.machine == vm.name }
        let ranking: [HandOverLedger.Phase] = [.givenAway, .resolvedHere]
        func rank(_ ledger: HandOverLedger) -> Int {
            ledger.role == .source ? ranking.firstIndex(of: ledger.phase) ?? ranking.count : ranking.count
        }
        guard let ledger = own.min(by: { rank($0) < rank($1) }) else {
            throw CommandError(
                .vmNotFound, "No VM named \(vm.name) runs here, and no hand-over of one is on record.")
        }
        switch decision {
        case .keep:
            throw CommandError(
                .wrongState,
                "the copy of \(vm.name) that was here died with its process: there is nothing to keep. "
                    + (ledger.phase == .givenAway
                        ? "Its destination has it: migratectl resolve \(vm.name) finish"
                        : "If the other side is in doubt, decide there."))
        case .discard:
            try store.remove(ledger.role, ledger.session)
            Output.note("migratectl: the hand-over of \(vm.name) with \(ledger.peer) is forgotten")
        case .finish:
            try finishOne(of: own.filter { rank($0) == rank(ledger) }, store)
        }
        if output.json { try Output.json(Settled(name: vm.name, peer: ledger.peer, decision: decision.rawValue)) }
    }

    /// Finishes the first that can be: an old one may stand before the one that is waited for.
    private func finishOne(of ledgers: [HandOverLedger], _ store: HandOverLedgerStore) throws {
        var failure: (any Error)?
        for ledger in ledgers {
            do { return try finish(ledger, store) } catch { failure = failure ?? error }
        }
        if let failure { throw failure }
    }

    private func finish(_ ledger: HandOverLedger, _ store: HandOverLedgerStore) throws {
        do {
            // What is recorded meanwhile is that it is done, and then nothing needs to be on record.
            let recovery = try HandOverRecovery(ledger, logger: Logger(label: "migratectl")) { _ in }
            try recovery.finish(within: .seconds(10))
        } catch let error as HandOverRecoveryError {
            let status: ExitStatus =
                switch error.code {
                case .nothingToSay: .wrongState
                case .peerLost: .peerLost
                case .destinationLost: .failure
                }
            throw CommandError(status, error.message)
        }
        try? store.remove(ledger.role, ledger.session)
        Output.note(
            ledger.phase == .givenAway
                ? "migratectl: \(vm.name) runs at \(ledger.peer)"
                : "migratectl: \(ledger.peer) has heard that its copy of \(vm.name) is void")
    }

    /// What `--json` prints of a hand-over whose process has died.
    private struct Settled: Encodable {
        var name: String
        var peer: String
        var decision: String
    }
}
