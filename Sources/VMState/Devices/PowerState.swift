/// The state of ACPI's fixed hardware.

import StateSchema
import SwiftProtobuf

/// The PM1 and GPE0 registers. A section of its own ("acpi.0").
public struct PowerState: SavedState {
    public static let version: UInt32 = 1
    static let maximumByteCount = 4096

    public var eventStatus: UInt16 = 0
    public var eventEnable: UInt16 = 0
    public var control: UInt16 = 0
    public var generalStatus: UInt8 = 0
    public var generalEnable: UInt8 = 0
    private var unknownByteCount = 0

    public init() {}

    public func encoded() throws(StateError) -> [UInt8] {
        var wire = WirePowerManagement()
        wire.pm1Status = UInt32(eventStatus)
        wire.pm1Enable = UInt32(eventEnable)
        wire.pm1Control = UInt32(control)
        wire.gpe0Status = UInt32(generalStatus)
        wire.gpe0Enable = UInt32(generalEnable)
        return try SectionCoder.encode(wire, "power management state")
    }

    public init(decoding bytes: [UInt8], version: UInt32) throws(StateError) {
        let part = "power management state"
        let wire = try SectionCoder.decode(
            WirePowerManagement.self, bytes, version: version, newest: Self.version, limit: Self.maximumByteCount, part)
        let checker = WireChecker(part: part)
        eventStatus = try checker.narrow(wire.pm1Status, "PM1 status")
        eventEnable = try checker.narrow(wire.pm1Enable, "PM1 enable")
        control = try checker.narrow(wire.pm1Control, "PM1 control")
        generalStatus = try checker.narrow(wire.gpe0Status, "GPE0 status")
        generalEnable = try checker.narrow(wire.gpe0Enable, "GPE0 enable")
        unknownByteCount = wire.unknownFields.data.count
    }

    public var stateDescription: StateDescription {
        var rows = StateDescription()
        rows.add(hex: "eventStatus", eventStatus)
        rows.add(hex: "eventEnable", eventEnable)
        rows.add(hex: "control", control)
        rows.add(hex: "generalStatus", generalStatus)
        rows.add(hex: "generalEnable", generalEnable)
        rows.add(unknown: unknownByteCount)
        return rows
    }
}
