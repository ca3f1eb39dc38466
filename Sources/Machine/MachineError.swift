/// What can go wrong with a machine, apart from calls to the kernel (`KVMError`) and saved state (`StateError`).

/// Why a machine could not be made, or could not do what was asked.
public struct MachineError: Error, Equatable, Sendable {
    /// The kind of failure; new ones may come.
    public struct Code: RawRepresentable, Hashable, Sendable {
        public var rawValue: String
        public init(rawValue: String) { self.rawValue = rawValue }

        /// Options that no machine can have.
        public static let invalidOptions = Code(rawValue: "invalid-options")
        /// The guest's file is not what this machine can boot.
        public static let badGuestImage = Code(rawValue: "bad-guest-image")
        /// A configuration that this host cannot run; the message has one reason a line.
        public static let cannotRunHere = Code(rawValue: "cannot-run-here")
        /// The saved state does not fit the machine.
        public static let badState = Code(rawValue: "bad-state")
        /// The machine is not in the state that the call needs.
        public static let wrongMoment = Code(rawValue: "wrong-moment")
        /// The guest has ended; the message says how.
        public static let guestEnded = Code(rawValue: "guest-ended")
        /// An address outside of guest RAM.
        public static let badAddress = Code(rawValue: "bad-address")
        /// A disk or an interface that a device needs is missing, in use, or not what it must be.
        public static let deviceUnavailable = Code(rawValue: "device-unavailable")
        /// The host did not give something that it usually has.
        public static let hostRefused = Code(rawValue: "host-refused")
    }

    public var code: Code
    /// One sentence: what failed, on what, and what to do where that is known.
    public var message: String

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }
}

extension MachineError: CustomStringConvertible {
    public var description: String { message }
}
