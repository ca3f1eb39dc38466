/// A connection that failed, in words.

import Glibc

/// What went wrong below the stream. `description` is one sentence.
public struct TransportError: Error, Equatable, CustomStringConvertible, Sendable {
    /// Can grow: switch with a default.
    public struct Code: Equatable, Sendable {
        enum Value { case invalidAddress, cannotConnect, cannotListen, closed, timedOut, failed, shutDown }
        let value: Value

        /// The address cannot be used.
        public static let invalidAddress = Code(value: .invalidAddress)
        public static let cannotConnect = Code(value: .cannotConnect)
        public static let cannotListen = Code(value: .cannotListen)
        /// The peer closed, or the link broke.
        public static let closed = Code(value: .closed)
        public static let timedOut = Code(value: .timedOut)
        public static let failed = Code(value: .failed)
        /// We ended it ourselves (cancel, or a dead peer).
        public static let shutDown = Code(value: .shutDown)
    }

    public var code: Code
    public var message: String

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { message }
}

/// The C library's words for an errno.
func errorText(_ code: CInt) -> String { unsafe String(cString: strerror(code)) }
