/// The state of the generation ID device.

import StateSchema
import SwiftProtobuf

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// The identifier that the guest was given. A section of its own ("genid.0").
public struct GenerationState: SavedState {
    public static let version: UInt32 = 1
    static let maximumByteCount = 4096

    /// 16 bytes.
    public var identifier: [UInt8]
    private var unknownByteCount = 0

    public init(identifier: [UInt8]) { self.identifier = identifier }

    public func encoded() throws(StateError) -> [UInt8] {
        var wire = WireGenerationIdentifier()
        wire.identifier = Data(identifier)
        return try SectionCoder.encode(wire, "generation ID state")
    }

    public init(decoding bytes: [UInt8], version: UInt32) throws(StateError) {
        let part = "generation ID state"
        let wire = try SectionCoder.decode(
            WireGenerationIdentifier.self, bytes, version: version, newest: Self.version,
            limit: Self.maximumByteCount, part)
        identifier = [UInt8](wire.identifier)
        try WireChecker(part: part).require(identifier.count == 16, "identifier", "\(identifier.count) bytes")
        unknownByteCount = wire.unknownFields.data.count
    }

    public var stateDescription: StateDescription {
        var rows = StateDescription()
        rows.add(bytes: "identifier", identifier)
        rows.add(unknown: unknownByteCount)
        return rows
    }
}
