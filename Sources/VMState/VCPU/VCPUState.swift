/// What a virtual CPU is while it does not run: taking it, and putting it back.

import CKVM
import KVM
import StateSchema

/// The whole state of one vCPU. A section of its own ("vcpu.0").
public struct VCPUState: SavedState {
    public static let version: UInt32 = 1
    static let maximumByteCount = 256 << 10

    /// Every value has been checked, wherever it came from.
    let wire: WireVCPU

    init(checking wire: WireVCPU) throws(StateError) {
        try wire.check(WireChecker(part: "vcpu state"))
        self.wire = wire
    }

    public init(decoding bytes: [UInt8], version: UInt32) throws(StateError) {
        try self.init(
            checking: SectionCoder.decode(
                WireVCPU.self, bytes, version: version, newest: Self.version, limit: Self.maximumByteCount,
                "vcpu state"))
    }

    public func encoded() throws(StateError) -> [UInt8] { try SectionCoder.encode(wire, "vcpu state") }
}

extension VCPUState {
    /// Takes the state of a vCPU that does not run, and whose last exit was completed (`completePendingAccess`).
    /// `msrs` is what KVM lists as saveable here (`HostCPU.msrs`). All vCPUs of the VM stand still meanwhile, as they
    /// send each other interrupts.
    public static func capture(
        from vcpu: VCPU, msrs: [UInt32]
    ) throws(StateError) -> (state: VCPUState, warnings: [StateWarning]) {
        var wire = WireVCPU()
        var warnings: [StateWarning] = []
        try capturing("mp state", vcpu) { () throws(KVMError) in
            // First: it makes KVM act on a pending INIT or SIPI, which changes registers, LAPIC and events.
            wire.mpState = try vcpu.mpState().mp_state
        }
        try capturing("events", vcpu) { () throws(KVMError) in
            // Before CR2 and DR6 are read: KVM turns a pending exception's payload into them here.
            wire.events = WireEvents(kernelValue: try vcpu.events())
        }
        try capturing("registers", vcpu) { () throws(KVMError) in
            wire.general = WireGeneralRegisters(kernelValue: try vcpu.registers())
            wire.system = WireSystemRegisters(kernelValue: try vcpu.segments())
            wire.debug = WireDebugRegisters(kernelValue: try vcpu.debugRegisters())
        }
        try capturing("floating point state", vcpu) { () throws(KVMError) in
            wire.xsave = bytesToData(try vcpu.xsave())
            wire.xcrs = WireXCR.list(kernelValue: try vcpu.extendedControlRegisters())
        }
        try capturing("lapic", vcpu) { () throws(KVMError) in
            wire.lapic = lapicData(kernelValue: try vcpu.lapic())
        }
        // The deadline of the LAPIC's timer is among the MSRs; reading it does not disturb the timer, so these two may
        // stand in any order.
        warnings += try captureMSRs(msrs, from: vcpu, into: &wire)
        try capturing("tsc", vcpu) { () throws(KVMError) in
            wire.tsc.khz = UInt32(clamping: try vcpu.tscFrequency())
            if let offset = try vcpu.tscOffset() { wire.tsc.offset = Int64(bitPattern: offset) }
        }
        return (try VCPUState(checking: wire), warnings)
    }

    /// Puts the state into a vCPU that never ran and that `CPUPolicy.apply` has given its CPUID and TSC frequency: KVM
    /// checks nearly everything below against the CPUID. `clock` is what restoring the VM's clock gave; without it the
    /// TSC keeps the offset it had at the source. Telling the guest's kvmclock that it stood still
    /// (`VCPU.notifyClockPaused`) is left to whoever lets the vCPU run.
    public func restore(into vcpu: VCPU, clock: ClockContinuation?) throws(StateError) -> [StateWarning] {
        var warnings: [StateWarning] = []
        // Before every timer: KVM turns a TSC deadline into an instant of the host when the deadline is written, and
        // does not look again when the offset changes.
        warnings += try restoreTSC(into: vcpu, clock: clock)
        try restoring("mp state", vcpu) { () throws(KVMError) in
            // Before the registers: KVM acts on INIT and SIPI by this state, and both reset registers.
            try vcpu.setMPState(kvm_mp_state(mp_state: wire.mpState))
        }
        try restoring("system registers", vcpu) { () throws(KVMError) in
            // Before the LAPIC: APIC_BASE says whether its page is in xAPIC or x2APIC form.
            try vcpu.setSegments(wire.system.kernelValue)
        }
        try restoring("lapic", vcpu) { () throws(KVMError) in
            // Before the MSRs: KVM drops a TSC deadline unless the LAPIC's timer is in deadline mode.
            try vcpu.setLAPIC(lapicState(wire.lapic))
        }
        warnings += try restoreMSRs(into: vcpu)
        try restoring("extended control registers", vcpu) { () throws(KVMError) in
            // KVM checks this and the XSAVE area each against CPUID, not against each other: this is merely the order
            // in which a CPU would have to be given them.
            try vcpu.setExtendedControlRegisters(WireXCR.kernelValue(wire.xcrs))
        }
        try restoreXSave(into: vcpu)
        try restoring("general registers", vcpu) { () throws(KVMError) in
            // Before the events: KVM_SET_REGS forgets a pending exception.
            try vcpu.setRegisters(wire.general.kernelValue)
        }
        try restoring("debug registers", vcpu) { () throws(KVMError) in
            try vcpu.setDebugRegisters(wire.debug.kernelValue)
        }
        try restoring("events", vcpu) { () throws(KVMError) in
            // Last: nearly everything above may queue or drop an event.
            try vcpu.setEvents(wire.events.kernelValue)
        }
        return warnings
    }

    private static func capturing(
        _ part: String, _ vcpu: VCPU, _ call: () throws(KVMError) -> Void
    ) throws(StateError) {
        try kvmCall("cannot take the \(part) of vcpu \(vcpu.index)", call)
    }

    func restoring(_ part: String, _ vcpu: VCPU, _ call: () throws(KVMError) -> Void) throws(StateError) {
        try kvmCall("cannot restore the \(part) of vcpu \(vcpu.index)", call)
    }
}

extension WireVCPU {
    fileprivate func check(_ checker: WireChecker) throws(StateError) {
        try checker.present(hasGeneral, "general registers")
        try checker.present(hasSystem, "system registers")
        try checker.present(hasDebug, "debug registers")
        try checker.present(hasEvents, "events")
        try checker.present(hasTsc, "tsc")
        try system.check(checker)
        try WireXCR.check(xcrs, checker)
        try debug.check(checker)
        try events.check(checker)
        try checkXSave(checker)
        try checkMSRs(checker)
        // What x86 has of KVM_MP_STATE_*; kernels before 6.1 took others without a word.
        try checker.require([0, 1, 2, 3, 4, 9].contains(mpState), "mp state", "\(mpState)")
        try checker.require(lapic.count == lapicByteCount, "lapic size", "\(lapic.count) bytes")
        try checker.require(tsc.khz > 0, "tsc frequency", "0 kHz")
    }
}
