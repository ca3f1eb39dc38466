/// How a command ends: what scripts see. The numbers are a promise; docs/cli.md explains them.

import Control
import Migrate

/// Exit codes of `migratectl`, by outcome.
enum ExitStatus: Int32, CaseIterable {
    /// It did what was asked.
    case success = 0
    /// It failed in a way that has no code of its own; the message says how.
    case failure = 1
    /// This host cannot run VMs, or does not let us: no /dev/kvm, no right to it.
    case noKVM = 2
    /// No VM of that name runs here.
    case vmNotFound = 3
    /// A VM of that name runs here already.
    case nameTaken = 4
    /// The VM's state does not allow it.
    case wrongState = 5
    /// Nobody answers: the VM's process, or the receiver that a VM should go to.
    case unreachable = 6
    /// The address to listen on cannot be had.
    case cannotListen = 7
    /// The other side said no. The VM runs on at the source.
    case refused = 10
    /// Cancelled, by a person or a signal. The VM runs on at the source.
    case cancelled = 11
    /// The other side was lost before the VM was given away. The VM runs on at the source.
    case peerLost = 12
    /// The limits could not be kept. The VM runs on at the source.
    case notConverging = 13
    /// The link was lost inside the hand-over: the VM stands still on both sides.
    case doubt = 14
    /// This side's copy of the VM was dropped, by a person's decision.
    case dropped = 15
    /// A stream or file is damaged, truncated, or not one of ours.
    case damaged = 16
    /// The VM ran here, and pages of it were at a source that is gone: it is lost.
    case lost = 17
    /// The VM that this process ran runs somewhere else now.
    case moved = 20
    /// The guest found something wrong, crashed, or ended with an error.
    case guestFailed = 21
    /// The guest asked for a reboot: whoever started the VM may start it again.
    case rebooted = 22
    /// The command line is not understood.
    case usage = 64

    init(_ code: ControlError.Code) {
        self =
            switch code {
            case .vmNotFound: .vmNotFound
            case .nameTaken: .nameTaken
            case .wrongState, .unsupported: .wrongState
            case .unreachable, .busy, .timeout: .unreachable
            case .badName, .badRequest: .usage
            default: .failure
            }
    }

    /// For the command that began or followed a migration.
    init(_ state: MigrationStatus.State) {
        self =
            switch state {
            case .completed: .success
            case .cancelled: .cancelled
            case .unreachable: .unreachable
            case .refused: .refused
            case .peerLost: .peerLost
            case .notConverging: .notConverging
            case .doubt: .doubt
            case .droppedHere: .dropped
            case .none, .active, .failed, .resolvedHere: .failure
            }
    }
}

/// An error with its exit code and its one line.
struct CommandError: Error, CustomStringConvertible {
    var status: ExitStatus
    var message: String

    init(_ status: ExitStatus, _ message: String) {
        self.status = status
        self.message = message
    }

    var description: String { message }
}
