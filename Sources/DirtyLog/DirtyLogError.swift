/// What a tracker refuses by itself; failures of the kernel's calls are `KVMError`s.

/// An error of the dirty log. Codes may be added.
public struct DirtyLogError: Error, Equatable, Sendable, CustomStringConvertible {
    /// What kind of failure it is.
    public struct Code: Equatable, Sendable {
        enum Kind: Sendable { case unsupported, wrongState }
        let kind: Kind
        /// This host or this VM does not offer what the tracker needs.
        public static let unsupported = Code(kind: .unsupported)
        /// Started twice, or used while it was not started.
        public static let wrongState = Code(kind: .wrongState)
    }

    public let code: Code
    /// One sentence: what failed, on what, and what to do.
    public let description: String

    init(_ code: Code, _ description: String) {
        self.code = code
        self.description = description
    }
}
