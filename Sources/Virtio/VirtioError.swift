/// Why a device could not be made, or a state not be taken over.

import CLibURing

/// What the host or a configuration refuses. What the *driver* does wrong is a `VirtioFault`.
public struct VirtioError: Error, Equatable, Sendable {
    /// The kind of failure; new ones may come.
    public struct Code: RawRepresentable, Hashable, Sendable {
        public var rawValue: String
        public init(rawValue: String) { self.rawValue = rawValue }

        /// A file or interface is missing, or of a kind that a device cannot use.
        public static let unusable = Code(rawValue: "unusable")
        /// Another VM, or another program, has it.
        public static let inUse = Code(rawValue: "in-use")
        /// The host refused a call.
        public static let hostRefused = Code(rawValue: "host-refused")
        /// A saved state that this device cannot have had.
        public static let badState = Code(rawValue: "bad-state")
        /// A saved state that needs what this device does not offer.
        public static let unsupported = Code(rawValue: "unsupported")
        /// Called at a time when it cannot be done.
        public static let notNow = Code(rawValue: "not-now")
    }

    public var code: Code
    /// One sentence: what failed, on what, and what to do.
    public var message: String

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    init(_ code: Code, _ message: String, errno number: CInt) {
        self.init(code, "\(message): \(errorText(number))")
    }
}

extension VirtioError: CustomStringConvertible {
    public var description: String { message }
}

/// "No such file or directory".
func errorText(_ number: CInt) -> String {
    guard let text = unsafe cur_error_text(number) else { return "error \(number)" }
    return unsafe String(cString: text)
}
