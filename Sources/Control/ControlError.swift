/// Errors of the control plane: what the API answers, what the client throws, what a command prints.

/// One sentence that says what failed, on what, and what to do, with a code for programs.
public struct ControlError: Error, Hashable, Sendable, Codable {
    /// Why it failed, for programs. Codes may be added: a client treats one that it does not know as `failed`.
    public struct Code: RawRepresentable, Hashable, Sendable, Codable {
        public let rawValue: String
        public init(rawValue: String) { self.rawValue = rawValue }

        /// The request is not understood: bad HTTP, bad JSON, an unknown field, a value out of range.
        public static let badRequest = Code(rawValue: "badRequest")
        /// No such path in the API.
        public static let notFound = Code(rawValue: "notFound")
        /// The path exists, the method does not.
        public static let methodNotAllowed = Code(rawValue: "methodNotAllowed")
        /// The request is larger than any request needs to be.
        public static let tooLarge = Code(rawValue: "tooLarge")
        /// The request did not arrive in time.
        public static let timeout = Code(rawValue: "timeout")
        /// More clients at a time than the server admits.
        public static let busy = Code(rawValue: "busy")
        /// The VM's state does not allow it: pausing what is paused, two migrations at a time.
        public static let wrongState = Code(rawValue: "wrongState")
        /// No VM of that name runs here.
        public static let vmNotFound = Code(rawValue: "vmNotFound")
        /// A VM of that name runs here already.
        public static let nameTaken = Code(rawValue: "nameTaken")
        /// The name is no name for a VM.
        public static let badName = Code(rawValue: "badName")
        /// The runtime directory is missing, not ours, or open to others.
        public static let runtimeDirectory = Code(rawValue: "runtimeDirectory")
        /// The VM's process does not answer.
        public static let unreachable = Code(rawValue: "unreachable")
        /// This VM does not have what was asked for (a guest that makes no report, a console that is not a socket).
        public static let unsupported = Code(rawValue: "unsupported")
        /// Anything else; the message says what.
        public static let failed = Code(rawValue: "failed")
    }

    public var code: Code
    /// One sentence for people.
    public var message: String

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }
}

extension ControlError: CustomStringConvertible {
    public var description: String { message }
}

extension ControlError {
    /// A failed system call, with the call's name and what the kernel said.
    static func system(_ call: String, _ code: Int32, _ what: String, as kind: Code = .failed) -> ControlError {
        ControlError(kind, "\(what): \(call) failed: \(errnoDescription(code)).")
    }
}
