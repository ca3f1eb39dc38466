/// Interrupt controllers, timers and interrupts of a VM.

import CKVM
import Units

/// The interrupt controllers in KVM besides the LAPICs.
public enum InterruptChip: UInt32, Sendable, CaseIterable {
    case picMaster = 0
    case picSlave = 1
    case ioapic = 2

    /// "pic master", for messages.
    public var name: String {
        switch self {
        case .picMaster: "pic master"
        case .picSlave: "pic slave"
        case .ioapic: "ioapic"
        }
    }
}

extension VirtualMachine {
    /// Where KVM keeps three pages for real mode on Intel hosts; below 4 GiB, in no memory slot.
    public func setTSSAddress(_ address: GuestAddress) throws(KVMError) {
        try descriptor.control(CKVM_SET_TSS_ADDR, "KVM_SET_TSS_ADDR", value: UInt(address.rawValue), subject)
    }

    /// Where KVM keeps one page for real mode on Intel hosts; before any vCPU is made.
    public func setIdentityMapAddress(_ address: GuestAddress) throws(KVMError) {
        var value = address.rawValue
        try descriptor.control(CKVM_SET_IDENTITY_MAP_ADDR, "KVM_SET_IDENTITY_MAP_ADDR", with: &value, subject)
    }

    /// Two PICs, an IOAPIC, and a LAPIC for each vCPU made from now on.
    public func createInterruptChips() throws(KVMError) {
        try descriptor.control(CKVM_CREATE_IRQCHIP, "KVM_CREATE_IRQCHIP", subject)
    }

    public func interruptChip(_ chip: InterruptChip) throws(KVMError) -> kvm_irqchip {
        var state = kvm_irqchip()
        state.chip_id = chip.rawValue
        try descriptor.control(CKVM_GET_IRQCHIP, "KVM_GET_IRQCHIP", with: &state, chip.name)
        return state
    }

    /// The chip is the one that `state.chip_id` names.
    public func setInterruptChip(_ state: kvm_irqchip) throws(KVMError) {
        var copy = state
        try descriptor.control(CKVM_SET_IRQCHIP, "KVM_SET_IRQCHIP", with: &copy, "chip \(state.chip_id)")
    }

    /// The timer of a PC. With `hasSpeaker`, port 0x61 is answered by KVM too.
    public func createPIT(hasSpeaker: Bool = true) throws(KVMError) {
        var config = kvm_pit_config()
        config.flags = hasSpeaker ? UInt32(KVM_PIT_SPEAKER_DUMMY) : 0
        try descriptor.control(CKVM_CREATE_PIT2, "KVM_CREATE_PIT2", with: &config, subject)
    }

    public func pit() throws(KVMError) -> kvm_pit_state2 {
        var state = kvm_pit_state2()
        try descriptor.control(CKVM_GET_PIT2, "KVM_GET_PIT2", with: &state, "pit")
        return state
    }

    public func setPIT(_ state: kvm_pit_state2) throws(KVMError) {
        var state = state
        try descriptor.control(CKVM_SET_PIT2, "KVM_SET_PIT2", with: &state, "pit")
    }

    /// Raises or lowers an interrupt line (a GSI) of the PICs and the IOAPIC.
    public func setInterruptLine(_ line: Int, level: Bool) throws(KVMError) {
        var request = kvm_irq_level()
        request.irq = UInt32(truncatingIfNeeded: line)
        request.level = level ? 1 : 0
        try descriptor.control(CKVM_IRQ_LINE, "KVM_IRQ_LINE", with: &request, "line \(line)")
    }

    /// Delivers a message-signalled interrupt; false when the guest has it masked.
    @discardableResult
    public func signalMSI(address: UInt64, data: UInt32) throws(KVMError) -> Bool {
        var message = kvm_msi()
        message.address_lo = UInt32(truncatingIfNeeded: address)
        message.address_hi = UInt32(truncatingIfNeeded: address >> 32)
        message.data = data
        return try descriptor.control(CKVM_SIGNAL_MSI, "KVM_SIGNAL_MSI", with: &message, subject) > 0
    }

    /// Makes a write to an eventfd raise interrupt line `line`, or stops that.
    public func setInterruptEvent(eventfd: CInt, line: Int, isAssigned: Bool = true) throws(KVMError) {
        var request = kvm_irqfd()
        request.fd = UInt32(bitPattern: eventfd)
        request.gsi = UInt32(truncatingIfNeeded: line)
        request.flags = isAssigned ? 0 : UInt32(KVM_IRQFD_FLAG_DEASSIGN)
        try descriptor.control(CKVM_IRQFD, "KVM_IRQFD", with: &request, "line \(line)")
    }

    /// Makes a guest write of `length` bytes at an address (or port) signal an eventfd instead of an exit to this
    /// process; only for the value `match` where one is given. Or stops that.
    public func setIOEvent(
        eventfd: CInt, address: UInt64, length: Int, isPort: Bool, match: UInt64? = nil, isAssigned: Bool = true
    ) throws(KVMError) {
        // The kernel's header makes these flags from an enum, which Swift does not see: bit 0, 1 and 2.
        let matchesData: UInt32 = 1 << 0
        let portSpace: UInt32 = 1 << 1
        let deassigns: UInt32 = 1 << 2
        var request = kvm_ioeventfd()
        request.fd = eventfd
        request.addr = address
        request.len = UInt32(truncatingIfNeeded: length)
        request.datamatch = match ?? 0
        request.flags =
            (match == nil ? 0 : matchesData) | (isPort ? portSpace : 0) | (isAssigned ? 0 : deassigns)
        try descriptor.control(CKVM_IOEVENTFD, "KVM_IOEVENTFD", with: &request, "0x" + String(address, radix: 16))
    }
}
