/// How a machine's life ended.

/// The end of a guest, or of its machine.
public enum MachineOutcome: Equatable, Sendable {
    /// The guest wrote this value to the exit port; 0 is success.
    case exited(code: UInt32)
    /// The guest switched its machine off.
    case poweredOff
    /// The guest asked for a reset. Its machine ends; whoever started it may start it again.
    case rebooted
    /// A triple fault: the guest could not even handle its own exception.
    case shutdown(vcpu: Int)
    /// KVM could not run the guest any further.
    case failed(String)
    /// `Machine.stop` was called.
    case stopped
}

extension MachineOutcome: CustomStringConvertible {
    public var description: String {
        switch self {
        case .exited(let code): "the guest ended with code \(code)"
        case .poweredOff: "the guest switched itself off"
        case .rebooted: "the guest asked to be rebooted"
        case .shutdown(let vcpu): "the guest shut down by a triple fault on vcpu \(vcpu)"
        case .failed(let reason): "the guest cannot go on: \(reason)"
        case .stopped: "the machine was stopped"
        }
    }
}
