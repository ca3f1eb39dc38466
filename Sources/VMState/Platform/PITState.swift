/// The interval timer of a PC.

import CKVM
import KVM
import StateSchema
import SwiftProtobuf

/// The state of the 8254. A section of its own ("pit").
public struct PITState: SavedState {
    public static let version: UInt32 = 1
    static let maximumByteCount = 4096

    let wire: WirePIT

    init(checking wire: WirePIT) throws(StateError) {
        let checker = WireChecker(part: "pit state")
        try checker.require(wire.channels.count == 3, "number of channels", "\(wire.channels.count)")
        try checker.require(wire.flags & ~3 == 0, "flags", "\(wire.flags)")
        for (index, channel) in wire.channels.enumerated() { try channel.check("channel \(index)", checker) }
        self.wire = wire
    }

    public init(decoding bytes: [UInt8], version: UInt32) throws(StateError) {
        try self.init(
            checking: SectionCoder.decode(
                WirePIT.self, bytes, version: version, newest: Self.version, limit: Self.maximumByteCount,
                "pit state"))
    }

    public func encoded() throws(StateError) -> [UInt8] { try SectionCoder.encode(wire, "pit state") }
}

extension PITState {
    /// Of a VM that does not run.
    public static func capture(from vm: VirtualMachine) throws(StateError) -> PITState {
        let state = try kvmCall("cannot take the VM's interval timer") { () throws(KVMError) in try vm.pit() }
        var wire = WirePIT()
        wire.channels = [state.channels.0, state.channels.1, state.channels.2].map(WirePITChannel.init(kernelValue:))
        wire.flags = state.flags
        return try PITState(checking: wire)
    }

    /// After the interrupt controllers: setting the timer starts it, and its first tick must not be wiped out by
    /// restoring the PIC behind it. KVM starts the running period anew; the rest of the old one is lost.
    public func restore(into vm: VirtualMachine) throws(StateError) {
        var state = kvm_pit_state2()
        state.channels = (wire.channels[0].kernelValue, wire.channels[1].kernelValue, wire.channels[2].kernelValue)
        state.flags = wire.flags
        try kvmCall("cannot restore the VM's interval timer") { () throws(KVMError) in try vm.setPIT(state) }
    }

    public var stateDescription: StateDescription {
        var rows = StateDescription()
        for (index, channel) in wire.channels.enumerated() { rows.add("channel.\(index)", channel.stateDescription) }
        rows.add("flags", "\(wire.flags)")
        rows.add(unknown: wire.unknownFields.data.count)
        return rows
    }
}

extension WirePITChannel {
    /// The fields of one byte, and the largest value that a real timer can have in each.
    private static let fields:
        [(
            name: String, wire: any WritableKeyPath<WirePITChannel, UInt32> & Sendable,
            kernel: any WritableKeyPath<kvm_pit_channel_state, UInt8> & Sendable, limit: UInt32
        )] = [
            ("countLatched", \.countLatched, \.count_latched, 4),
            ("statusLatched", \.statusLatched, \.status_latched, 1),
            ("status", \.status, \.status, 0xFF),
            ("readState", \.readState, \.read_state, 4),
            ("writeState", \.writeState, \.write_state, 4),
            ("writeLatch", \.writeLatch, \.write_latch, 0xFF),
            ("rwMode", \.rwMode, \.rw_mode, 3),
            ("mode", \.mode, \.mode, 0xFF),
            ("bcd", \.bcd, \.bcd, 1),
            ("gate", \.gate, \.gate, 1),
        ]

    init(kernelValue channel: kvm_pit_channel_state) {
        self.init()
        (count, latchedCount) = (channel.count, UInt32(channel.latched_count))
        countLoadTime = channel.count_load_time
        for field in Self.fields { self[keyPath: field.wire] = UInt32(channel[keyPath: field.kernel]) }
    }

    /// Of a checked channel.
    var kernelValue: kvm_pit_channel_state {
        var channel = kvm_pit_channel_state()
        (channel.count, channel.latched_count) = (count, UInt16(truncatingIfNeeded: latchedCount))
        channel.count_load_time = countLoadTime
        for field in Self.fields {
            channel[keyPath: field.kernel] = UInt8(truncatingIfNeeded: self[keyPath: field.wire])
        }
        return channel
    }

    fileprivate func check(_ channel: String, _ checker: WireChecker) throws(StateError) {
        // 0x10000 is how KVM writes the longest period; old kernels divide by the count.
        try checker.require(count <= 0x10000, "\(channel) count", "\(count)")
        try checker.require(latchedCount <= 0xFFFF, "\(channel) latched count", "\(latchedCount)")
        for field in Self.fields {
            let value = self[keyPath: field.wire]
            try checker.require(value <= field.limit, "\(channel) \(field.name)", "\(value)")
        }
        // 0xFF is a channel that the guest never set up.
        try checker.require(mode <= 7 || mode == 0xFF, "\(channel) mode", "\(mode)")
    }

    fileprivate var stateDescription: StateDescription {
        var rows = StateDescription()
        rows.add("count", "\(count)")
        rows.add("latchedCount", "\(latchedCount)")
        for field in Self.fields { rows.add(hex: field.name, self[keyPath: field.wire]) }
        rows.add("countLoadTime", "\(countLoadTime) ns")
        return rows
    }
}
