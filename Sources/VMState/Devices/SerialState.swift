/// The state of a serial port.

import StateSchema
import SwiftProtobuf

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// The registers of a 16550A UART and what it has received. A section of its own ("serial.0").
public struct SerialState: SavedState {
    public static let version: UInt32 = 1
    /// Input waits in the device until the guest reads it (`receiveFIFO`).
    static let maximumByteCount = 128 << 10

    public var interruptEnable: UInt8 = 0
    public var interruptIdentification: UInt8 = 0
    public var fifoControl: UInt8 = 0
    public var lineControl: UInt8 = 0
    public var modemControl: UInt8 = 0
    public var lineStatus: UInt8 = 0
    public var modemStatus: UInt8 = 0
    public var scratch: UInt8 = 0
    public var divisor: UInt16 = 0
    /// Received and not yet read by the guest, oldest first; more than the chip's FIFO holds waits behind it.
    public var receiveFIFO: [UInt8] = []
    /// The interrupt "transmitter empty" is due and not yet acknowledged.
    public var transmitInterruptPending = false
    /// Fields that a newer migratectl wrote.
    private var unknownByteCount = 0

    public init() {}

    /// Each register of one byte, ours and the schema's.
    private static var registers:
        [(
            name: String, value: any WritableKeyPath<SerialState, UInt8> & Sendable,
            wire: any WritableKeyPath<WireSerial, UInt32> & Sendable
        )]
    {
        [
            ("interruptEnable", \.interruptEnable, \.interruptEnable),
            ("interruptIdentification", \.interruptIdentification, \.interruptIdentification),
            ("fifoControl", \.fifoControl, \.fifoControl),
            ("lineControl", \.lineControl, \.lineControl),
            ("modemControl", \.modemControl, \.modemControl),
            ("lineStatus", \.lineStatus, \.lineStatus),
            ("modemStatus", \.modemStatus, \.modemStatus),
            ("scratch", \.scratch, \.scratch),
        ]
    }

    public func encoded() throws(StateError) -> [UInt8] {
        var wire = WireSerial()
        for register in Self.registers { wire[keyPath: register.wire] = UInt32(self[keyPath: register.value]) }
        wire.divisor = UInt32(divisor)
        wire.receiveFifo = Data(receiveFIFO)
        wire.transmitInterruptPending = transmitInterruptPending
        return try SectionCoder.encode(wire, "serial state")
    }

    public init(decoding bytes: [UInt8], version: UInt32) throws(StateError) {
        let wire = try SectionCoder.decode(
            WireSerial.self, bytes, version: version, newest: Self.version, limit: Self.maximumByteCount,
            "serial state")
        let checker = WireChecker(part: "serial state")
        for register in Self.registers {
            self[keyPath: register.value] = try checker.narrow(wire[keyPath: register.wire], register.name)
        }
        divisor = try checker.narrow(wire.divisor, "divisor")
        receiveFIFO = [UInt8](wire.receiveFifo)
        transmitInterruptPending = wire.transmitInterruptPending
        unknownByteCount = wire.unknownFields.data.count
    }

    public var stateDescription: StateDescription {
        var rows = StateDescription()
        for register in Self.registers { rows.add(hex: register.name, self[keyPath: register.value]) }
        rows.add("divisor", "\(divisor)")
        rows.add(bytes: "receiveFIFO", receiveFIFO)
        rows.add(flag: "transmitInterruptPending", transmitInterruptPending)
        rows.add(unknown: unknownByteCount)
        return rows
    }
}
