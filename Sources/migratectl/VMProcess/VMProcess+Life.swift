/// The life of a VM's process from its first to its last moment, the same for `run` and `receive`.

import Control
import Glibc
import Machine
import Migrate
import Synchronization
import SelfTest

/// What a process leaves behind, and what `--report` writes.
struct ProcessReport: Codable {
    var name: String
    var identifier: String?
    /// In a word: `guestEnded`, `guestRebooted`, `stopped`, `moved`, `dropped`, `lost`, `notReceived`.
    var ended: String
    /// In a sentence.
    var message: String
    var exitStatus: Int32
    /// What the test guest said on this side.
    var guest: SelfTestReport?
    /// The last migration of this process.
    var migration: MigrationStatus?
}

extension ProcessEnd {
    /// The word, the sentence, and the exit code.
    func summary(of name: VMName) -> (word: String, sentence: String, status: ExitStatus) {
        switch self {
        case .guest(.exited(code: 0)): ("guestEnded", "the guest of \(name) has ended", .success)
        case .guest(.poweredOff): ("guestEnded", "\(name) is over: \(MachineOutcome.poweredOff)", .success)
        case .guest(.rebooted): ("guestRebooted", "\(name) is over: \(MachineOutcome.rebooted)", .rebooted)
        case .guest(.stopped), .stopped: ("stopped", "\(name) was stopped", .success)
        case .guest(let outcome): ("guestEnded", "\(name) is over: \(outcome)", .guestFailed)
        case .moved(let place): ("moved", "\(name) runs at \(place) now", .moved)
        case .dropped: ("dropped", "this side's copy of \(name) was dropped", .dropped)
        case .notReceived(let status, let sentence): ("notReceived", sentence, status)
        }
    }
}

extension VMProcess {
    /// Handles a signal: the VM is stopped in order, or not at all.
    func signalled(_ number: Int32) {
        do {
            try stop()
            Output.note("migratectl: \(Signals.name(number)): stopping \(claim.name)")
        } catch {
            Output.note("migratectl: \(Signals.name(number)) is not obeyed: \(error.message)")
        }
    }

    /// Waits for the end and cleans up after it.
    /// - Returns: the exit code.
    func seeThrough(server: ControlServer, console: ConsoleServer?, reportFile: String?) throws -> ExitStatus {
        let end = waitForEnd()
        let (machine, incoming) = state.withLock { ($0.machine, $0.incoming) }
        // Everything that the guest has said is delivered when the machine has stopped.
        machine?.stop()
        // A source that keeps pages of a guest that has ended is let go.
        let received = incoming?.progress
        incoming?.forgetPages()
        incoming?.close(waiting: .seconds(2))
        // The process ends before the listener would remove its socket.
        if case .unix(let path)? = state.withLock({ $0.endpoint }) { unlink(path) }
        let name = claim.name
        var summary = end.summary(of: name)
        if let received, let missing = received.pagesMissing, missing > 0, received.doubt != nil {
            summary = ("lost", "\(name) is lost: \(missing) of its pages were at a source that is gone", .lost)
        }
        let report = ProcessReport(
            name: name.description, identifier: status().identifier, ended: summary.word, message: summary.sentence,
            exitStatus: summary.status.rawValue, guest: watch.report, migration: migration())
        // Followers of the migration get its last event before the socket goes.
        server.stop(grace: .seconds(1))
        console?.stop()
        Output.note("migratectl: \(summary.sentence)")
        defer { claim.release() }
        if case .notReceived = end {} else { write(report, to: claim.reportPath, isWanted: false) }
        if let reportFile, !write(report, to: reportFile, isWanted: true), summary.status == .success {
            return .failure
        }
        return summary.status
    }

    @discardableResult
    private func write(_ report: ProcessReport, to path: String, isWanted: Bool) -> Bool {
        do {
            let bytes = try ControlJSON.encode(report, pretty: true) + [UInt8(ascii: "\n")]
            try OutputFile.write(bytes, to: path, mode: 0o600)
            return true
        } catch {
            Output.note("migratectl: the report is lost: \(error)" + (isWanted ? "" : " (nothing else is)"))
            return false
        }
    }
}
