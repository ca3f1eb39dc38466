/// What can go wrong with a saved state, and what is worth telling although it went well.

import KVM

/// Why a state could not be taken, read or put back.
public struct StateError: Error, Equatable, Sendable {
    /// The kind of failure; new ones may come.
    public struct Code: RawRepresentable, Hashable, Sendable {
        public var rawValue: String
        public init(rawValue: String) { self.rawValue = rawValue }

        /// The bytes are not a state: cut off, too long, or not in the schema's form.
        public static let malformed = Code(rawValue: "malformed")
        /// A value that no VM can have.
        public static let invalidValue = Code(rawValue: "invalid-value")
        /// Written by a newer migratectl.
        public static let unsupportedVersion = Code(rawValue: "unsupported-version")
        /// This host cannot hold the state although it is well-formed.
        public static let incompatibleHost = Code(rawValue: "incompatible-host")
        /// KVM refused a call.
        public static let kvm = Code(rawValue: "kvm")
    }

    public var code: Code
    /// One sentence: what failed, on what.
    public var message: String
    /// The failed call, where there was one.
    public var cause: KVMError?

    public init(_ code: Code, _ message: String, cause: KVMError? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }
}

extension StateError: CustomStringConvertible {
    public var description: String { cause.map { "\(message): \($0)" } ?? message }
}

/// Something that a person should hear of, though the VM goes on.
public struct StateWarning: Hashable, Sendable {
    /// The kind of warning; new ones may come.
    public struct Code: RawRepresentable, Hashable, Sendable {
        public var rawValue: String
        public init(rawValue: String) { self.rawValue = rawValue }

        /// KVM lists an MSR as saveable and did not read it.
        public static let unreadableMSR = Code(rawValue: "unreadable-msr")
        /// KVM did not take an MSR's value, and nothing is lost by it (docs/state.md, "MSRs").
        public static let refusedMSR = Code(rawValue: "refused-msr")
        /// The guest's time stamp counter does not continue where it stopped.
        public static let tsc = Code(rawValue: "tsc")
        /// The guest's clock does not continue where it stopped.
        public static let clock = Code(rawValue: "clock")
    }

    public var code: Code
    /// What it is about: "vcpu 0", "clock".
    public var subject: String
    public var message: String

    public init(_ code: Code, _ subject: String, _ message: String) {
        self.code = code
        self.subject = subject
        self.message = message
    }
}

extension StateWarning: CustomStringConvertible {
    public var description: String { "\(subject): \(message)" }
}

/// Runs a KVM call and says what it was for when it fails.
func kvmCall<Result: ~Copyable>(
    _ purpose: @autoclosure () -> String, _ call: () throws(KVMError) -> Result
) throws(StateError) -> Result {
    do {
        return try call()
    } catch let error {
        throw StateError(.kvm, purpose(), cause: error)
    }
}
