/// The name of a VM: what people type, and a part of the paths in the runtime directory, so it is checked before
/// it is used for anything.

/// A name that is safe as a file name: letters, digits, `.`, `_` and `-`, first a letter or digit, at most 64.
public struct VMName: Hashable, Sendable, Comparable, CustomStringConvertible {
    public static let maximumLength = 64
    /// What the name of a receiver starts with that does not yet know what it will receive.
    public static let incomingPrefix = "incoming-"

    public let description: String

    /// - Throws: `badName`, saying which rule the text breaks.
    public init(_ text: String) throws(ControlError) {
        try self.init(checked: text)
        if text.hasPrefix(Self.incomingPrefix) {
            throw ControlError(
                .badName,
                "\(Self.quoted(text)) is not a VM name: names that start with \"\(Self.incomingPrefix)\" "
                    + "belong to receivers that wait for a VM.")
        }
    }

    /// A name that exists already, which may be a receiver's.
    public init(existing text: String) throws(ControlError) {
        try self.init(checked: text)
    }

    /// The name that a receiver goes by until the VM it receives runs.
    public init(incoming process: Int32) {
        description = Self.incomingPrefix + String(process)
    }

    /// Whether this is the passing name of a receiver.
    public var isIncoming: Bool { description.hasPrefix(Self.incomingPrefix) }

    private init(checked text: String) throws(ControlError) {
        guard let first = text.utf8.first else {
            throw ControlError(.badName, "A VM name must not be empty.")
        }
        guard text.utf8.count <= Self.maximumLength else {
            throw ControlError(
                .badName,
                "\(Self.quoted(text)) is not a VM name: \(text.utf8.count) bytes are more than "
                    + "\(Self.maximumLength).")
        }
        guard Self.isAlphanumeric(first) else {
            throw ControlError(
                .badName,
                "\(Self.quoted(text)) is not a VM name: it must start with a letter or a digit (a to z, A to Z, "
                    + "0 to 9).")
        }
        for byte in text.utf8 where !Self.isAlphanumeric(byte) && !"._-".utf8.contains(byte) {
            throw ControlError(
                .badName,
                "\(Self.quoted(text)) is not a VM name: only letters, digits, \".\", \"_\" and \"-\" may stand in it.")
        }
        description = text
    }

    private static func isAlphanumeric(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"):
            true
        default: false
        }
    }

    /// A hostile name goes into a message, and so to a terminal: no control characters, and not at any length.
    static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars.prefix(maximumLength) {
            result += scalar.escaped(asASCII: true)
        }
        return result + (text.unicodeScalars.count > maximumLength ? "...\"" : "\"")
    }

    public static func < (a: VMName, b: VMName) -> Bool { a.description < b.description }
}
