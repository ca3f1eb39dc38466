/// The state of a PC's real-time clock.

import StateSchema
import SwiftProtobuf

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// The registers of an MC146818. A section of its own ("rtc.0"). The time is not part of it: that is the host's, plus an
/// offset.
public struct ClockChipState: SavedState {
    public static let version: UInt32 = 1
    static let maximumByteCount = 4096
    static let registerCount = 128

    public var index: UInt8
    public var registers: [UInt8]
    public var offsetSeconds: Int64
    private var unknownByteCount = 0

    public init(index: UInt8, registers: [UInt8], offsetSeconds: Int64) {
        self.index = index
        self.registers = registers
        self.offsetSeconds = offsetSeconds
    }

    public func encoded() throws(StateError) -> [UInt8] {
        var wire = WireRealTimeClock()
        wire.index = UInt32(index)
        wire.registers = Data(registers)
        wire.offsetSeconds = offsetSeconds
        return try SectionCoder.encode(wire, "real-time clock state")
    }

    public init(decoding bytes: [UInt8], version: UInt32) throws(StateError) {
        let part = "real-time clock state"
        let wire = try SectionCoder.decode(
            WireRealTimeClock.self, bytes, version: version, newest: Self.version, limit: Self.maximumByteCount, part)
        let checker = WireChecker(part: part)
        index = try checker.narrow(wire.index, "index")
        try checker.require(Int(index) < Self.registerCount, "index", "\(index)")
        registers = [UInt8](wire.registers)
        try checker.require(registers.count == Self.registerCount, "register count", "\(registers.count)")
        offsetSeconds = wire.offsetSeconds
        unknownByteCount = wire.unknownFields.data.count
    }

    public var stateDescription: StateDescription {
        var rows = StateDescription()
        rows.add("index", "\(index)")
        rows.add(bytes: "registers", registers)
        rows.add("offsetSeconds", "\(offsetSeconds)")
        rows.add(unknown: unknownByteCount)
        return rows
    }
}
