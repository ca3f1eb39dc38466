/// What every section of saved state has in common.

import SwiftProtobuf

/// One part of a stopped VM, as bytes and for people.
public protocol SavedState: Equatable, Sendable {
    /// The version of the section's schema that this program writes, and the newest that it reads.
    static var version: UInt32 { get }
    /// The part's bytes, protobuf (Sources/VMState/Schema).
    func encoded() throws(StateError) -> [UInt8]
    /// Reads a part and checks every value, so that `restore` hands KVM nothing that no VM can have.
    init(decoding bytes: [UInt8], version: UInt32) throws(StateError)
    /// Rows for `migratectl inspect`.
    var stateDescription: StateDescription { get }
}

/// Messages to bytes and back, within bounds.
enum SectionCoder {
    static func encode(_ wire: some SwiftProtobuf.Message, _ part: String) throws(StateError) -> [UInt8] {
        do {
            return try wire.serializedBytes()
        } catch {
            throw StateError(.malformed, "cannot encode \(part): \(error)")
        }
    }

    /// `limit` is the section's size cap, `newest` the newest version that this program reads.
    static func decode<Wire: SwiftProtobuf.Message>(
        _ type: Wire.Type, _ bytes: [UInt8], version: UInt32, newest: UInt32, limit: Int, _ part: String
    ) throws(StateError) -> Wire {
        guard version <= newest else {
            throw StateError(
                .unsupportedVersion,
                "\(part) has version \(version); this migratectl reads up to version \(newest)")
        }
        guard version > 0 else { throw StateError(.malformed, "\(part) has version 0, which never was") }
        guard bytes.count <= limit else {
            throw StateError(.malformed, "\(part) is \(bytes.count) bytes long, more than the \(limit) allowed")
        }
        // The schema nests four deep; more is an attempt to exhaust the stack.
        var options = BinaryDecodingOptions()
        options.messageDepthLimit = 8
        do {
            return try Wire(serializedBytes: bytes, options: options)
        } catch {
            throw StateError(.malformed, "\(part) is not in its schema's form: \(error)")
        }
    }
}

/// Checks of values from the wire. Each names the part and the field in its error.
struct WireChecker {
    let part: String

    /// The value as a narrower number.
    func narrow<Number: FixedWidthInteger>(_ value: some BinaryInteger, _ field: String) throws(StateError) -> Number {
        guard let number = Number(exactly: value) else { throw invalid(field, "\(value)") }
        return number
    }

    func require(_ condition: Bool, _ field: String, _ value: @autoclosure () -> String) throws(StateError) {
        guard condition else { throw invalid(field, value()) }
    }

    func present(_ condition: Bool, _ field: String) throws(StateError) {
        guard condition else { throw StateError(.malformed, "\(part) lacks \(field)") }
    }

    func count(_ count: Int, atMost limit: Int, _ field: String) throws(StateError) {
        guard count <= limit else {
            throw StateError(.malformed, "\(part) has \(count) entries of \(field), more than the \(limit) allowed")
        }
    }

    private func invalid(_ field: String, _ value: String) -> StateError {
        StateError(.invalidValue, "\(part) has an impossible \(field): \(value)")
    }
}
