/// The interrupt controllers that a VM has once: two PICs and the IOAPIC.

import CKVM
import KVM
import StateSchema
import SwiftProtobuf

/// The state of both 8259s and the IOAPIC. A section of its own ("irqchip").
public struct IRQChipState: SavedState {
    public static let version: UInt32 = 1
    static let maximumByteCount = 4096

    let wire: WireIRQChip

    init(checking wire: WireIRQChip) throws(StateError) {
        let checker = WireChecker(part: "irqchip state")
        try checker.present(wire.hasMaster, "the master PIC")
        try checker.present(wire.hasSlave, "the slave PIC")
        try checker.present(wire.hasIoapic, "the IOAPIC")
        // Which lines may be level-triggered is wired in a PC, and nothing checks it in KVM.
        try wire.master.check("master PIC", elcrMask: 0xF8, checker)
        try wire.slave.check("slave PIC", elcrMask: 0xDE, checker)
        try wire.ioapic.check(checker)
        self.wire = wire
    }

    public init(decoding bytes: [UInt8], version: UInt32) throws(StateError) {
        try self.init(
            checking: SectionCoder.decode(
                WireIRQChip.self, bytes, version: version, newest: Self.version, limit: Self.maximumByteCount,
                "irqchip state"))
    }

    public func encoded() throws(StateError) -> [UInt8] { try SectionCoder.encode(wire, "irqchip state") }
}

extension IRQChipState {
    /// Of a VM that does not run and whose devices are drained, so that no line changes any more.
    public static func capture(from vm: VirtualMachine) throws(StateError) -> IRQChipState {
        var wire = WireIRQChip()
        try kvmCall("cannot take the VM's interrupt controllers") { () throws(KVMError) in
            wire.master = unsafe WirePIC(kernelValue: try vm.interruptChip(.picMaster).chip.pic)
            wire.slave = unsafe WirePIC(kernelValue: try vm.interruptChip(.picSlave).chip.pic)
            wire.ioapic = unsafe WireIOAPIC(kernelValue: try vm.interruptChip(.ioapic).chip.ioapic)
        }
        return try IRQChipState(checking: wire)
    }

    /// After the vCPUs: the IOAPIC hands pending interrupts to the LAPICs at once, and restoring a LAPIC would wipe
    /// them out.
    public func restore(into vm: VirtualMachine) throws(StateError) {
        try kvmCall("cannot restore the VM's interrupt controllers") { () throws(KVMError) in
            var chip = kvm_irqchip()
            unsafe (chip.chip_id, chip.chip.pic) = (InterruptChip.picMaster.rawValue, wire.master.kernelValue)
            try vm.setInterruptChip(chip)
            unsafe (chip.chip_id, chip.chip.pic) = (InterruptChip.picSlave.rawValue, wire.slave.kernelValue)
            try vm.setInterruptChip(chip)
            unsafe (chip.chip_id, chip.chip.ioapic) = (InterruptChip.ioapic.rawValue, wire.ioapic.kernelValue)
            try vm.setInterruptChip(chip)
        }
    }

    public var stateDescription: StateDescription {
        var rows = StateDescription()
        rows.add("master", wire.master.stateDescription)
        rows.add("slave", wire.slave.stateDescription)
        rows.add("ioapic", wire.ioapic.stateDescription)
        rows.add(unknown: wire.unknownFields.data.count)
        return rows
    }
}

extension WirePIC {
    /// Each field, KVM's and ours: one list serves both directions, the check and the description.
    private static let fields:
        [(
            name: String, wire: any WritableKeyPath<WirePIC, UInt32> & Sendable,
            kernel: any WritableKeyPath<kvm_pic_state, UInt8> & Sendable
        )] = [
            ("lastIRR", \.lastIrr, \.last_irr),
            ("irr", \.irr, \.irr),
            ("imr", \.imr, \.imr),
            ("isr", \.isr, \.isr),
            ("priorityAdd", \.priorityAdd, \.priority_add),
            ("irqBase", \.irqBase, \.irq_base),
            ("readRegisterSelect", \.readRegisterSelect, \.read_reg_select),
            ("poll", \.poll, \.poll),
            ("specialMask", \.specialMask, \.special_mask),
            ("initState", \.initState, \.init_state),
            ("autoEOI", \.autoEoi, \.auto_eoi),
            ("rotateOnAutoEOI", \.rotateOnAutoEoi, \.rotate_on_auto_eoi),
            ("specialFullyNestedMode", \.specialFullyNestedMode, \.special_fully_nested_mode),
            ("init4", \.init4, \.init4),
            ("elcr", \.elcr, \.elcr),
            ("elcrMask", \.elcrMask, \.elcr_mask),
        ]

    init(kernelValue pic: kvm_pic_state) {
        self.init()
        for field in Self.fields { self[keyPath: field.wire] = UInt32(pic[keyPath: field.kernel]) }
    }

    /// Of a checked PIC.
    var kernelValue: kvm_pic_state {
        var pic = kvm_pic_state()
        for field in Self.fields {
            pic[keyPath: field.kernel] = UInt8(truncatingIfNeeded: self[keyPath: field.wire])
        }
        return pic
    }

    fileprivate func check(_ chip: String, elcrMask expected: UInt32, _ checker: WireChecker) throws(StateError) {
        for field in Self.fields {
            let value = self[keyPath: field.wire]
            try checker.require(value <= 0xFF, "\(chip) \(field.name)", "\(value)")
        }
        // KVM shifts by it.
        try checker.require(priorityAdd <= 7, "\(chip) priorityAdd", "\(priorityAdd)")
        try checker.require(initState <= 3, "\(chip) initState", "\(initState)")
        try checker.require(elcrMask == expected, "\(chip) elcrMask", StateDescription.hex(elcrMask))
        try checker.require(elcr & ~expected == 0, "\(chip) elcr", StateDescription.hex(elcr))
    }

    fileprivate var stateDescription: StateDescription {
        var rows = StateDescription()
        for field in Self.fields { rows.add(hex: field.name, self[keyPath: field.wire]) }
        return rows
    }
}

extension WireIOAPIC {
    private static let pinCount = Int(KVM_IOAPIC_NUM_PINS)
    /// Swift does not see the redirection table: its entries are unions with bit-fields. It is the structure's end.
    private static let redirectionOffset = MemoryLayout<kvm_ioapic_state>.size - pinCount * 8
    /// Where a PC has it; KVM never lets a guest move it.
    private static let expectedBase: UInt64 = 0xFEC0_0000

    init(kernelValue state: kvm_ioapic_state) {
        self.init()
        (baseAddress, registerSelect, id, irr) = (state.base_address, state.ioregsel, state.id, state.irr)
        redirection = unsafe withUnsafeBytes(of: state) { bytes in
            (0..<Self.pinCount).map {
                unsafe bytes.load(fromByteOffset: Self.redirectionOffset + $0 * 8, as: UInt64.self)
            }
        }
    }

    /// Of a checked IOAPIC.
    var kernelValue: kvm_ioapic_state {
        var state = kvm_ioapic_state()
        (state.base_address, state.ioregsel, state.id, state.irr) = (baseAddress, registerSelect, id, irr)
        unsafe withUnsafeMutableBytes(of: &state) { bytes in
            for (pin, bits) in redirection.enumerated() where pin < Self.pinCount {
                unsafe bytes.storeBytes(of: bits, toByteOffset: Self.redirectionOffset + pin * 8, as: UInt64.self)
            }
        }
        return state
    }

    fileprivate func check(_ checker: WireChecker) throws(StateError) {
        try checker.require(redirection.count == Self.pinCount, "number of IOAPIC pins", "\(redirection.count)")
        try checker.require(baseAddress == Self.expectedBase, "IOAPIC address", StateDescription.hex(baseAddress))
        try checker.require(registerSelect <= 0xFF, "IOAPIC register", "\(registerSelect)")
        try checker.require(id <= 0xFF, "IOAPIC id", "\(id)")
        try checker.require(irr >> UInt32(Self.pinCount) == 0, "IOAPIC irr", StateDescription.hex(irr))
    }

    fileprivate var stateDescription: StateDescription {
        var rows = StateDescription()
        rows.add(hex: "baseAddress", baseAddress)
        rows.add(hex: "registerSelect", registerSelect)
        rows.add(hex: "id", id)
        rows.add(hex: "irr", irr)
        for (pin, bits) in redirection.enumerated() { rows.add(hex: "redirection.\(pin)", bits) }
        return rows
    }
}

extension StateDescription {
    /// Fields that a newer migratectl wrote and this one does not know.
    mutating func add(unknown byteCount: Int) {
        if byteCount > 0 { add("unknownFields", "\(byteCount) bytes") }
    }
}
