/// A vCPU's state besides its registers: MSRs, CPUID, events, LAPIC, run state, time.

import CKVM
import Glibc

/// What became of a batch of MSRs. KVM works through a batch in order and stops at the first that fails.
public struct MSRBatch: Sendable {
    /// The entries that were read (or written), in the order asked for.
    public var entries: [kvm_msr_entry]
    /// The MSR at which KVM stopped; nil when it got through.
    public var stoppedAt: UInt32?
}

extension VCPU {
    /// Reads MSRs in one call; see `MSRBatch` for where it stopped.
    public func readMSRs(_ indices: [UInt32]) throws(KVMError) -> MSRBatch {
        var buffer = FlexibleBuffer<kvm_msrs, kvm_msr_entry>(capacity: indices.count)
        buffer.header.nmsrs = UInt32(indices.count)
        for (place, index) in indices.enumerated() {
            buffer[place] = kvm_msr_entry(index: index, reserved: 0, data: 0)
        }
        let count = try unsafe descriptor.control(CKVM_GET_MSRS, "KVM_GET_MSRS", at: buffer.pointer, subject)
        return MSRBatch(entries: buffer.elements(count), stoppedAt: count < indices.count ? indices[count] : nil)
    }

    /// Writes MSRs in one call, in order; see `MSRBatch` for where it stopped.
    @discardableResult
    public func writeMSRs(_ entries: [kvm_msr_entry]) throws(KVMError) -> MSRBatch {
        var buffer = FlexibleBuffer<kvm_msrs, kvm_msr_entry>(capacity: entries.count)
        buffer.header.nmsrs = UInt32(entries.count)
        for (place, entry) in entries.enumerated() { buffer[place] = entry }
        let count = try unsafe descriptor.control(CKVM_SET_MSRS, "KVM_SET_MSRS", at: buffer.pointer, subject)
        return MSRBatch(
            entries: Array(entries.prefix(count)), stoppedAt: count < entries.count ? entries[count].index : nil)
    }

    /// The CPUID leaves that the guest sees.
    public func cpuid() throws(KVMError) -> [kvm_cpuid_entry2] {
        let capacity = 256
        var buffer = FlexibleBuffer<kvm_cpuid2, kvm_cpuid_entry2>(capacity: capacity)
        buffer.header.nent = UInt32(capacity)
        try unsafe descriptor.control(CKVM_GET_CPUID2, "KVM_GET_CPUID2", at: buffer.pointer, subject)
        return buffer.elements(Int(buffer.header.nent))
    }

    /// Sets the CPUID leaves. Before any other state, which KVM checks against them.
    public func setCPUID(_ entries: [kvm_cpuid_entry2]) throws(KVMError) {
        var buffer = FlexibleBuffer<kvm_cpuid2, kvm_cpuid_entry2>(capacity: entries.count)
        buffer.header.nent = UInt32(entries.count)
        for (place, entry) in entries.enumerated() { buffer[place] = entry }
        try unsafe descriptor.control(CKVM_SET_CPUID2, "KVM_SET_CPUID2", at: buffer.pointer, subject)
    }

    /// Exceptions, interrupts, NMIs and SMIs on their way.
    public func events() throws(KVMError) -> kvm_vcpu_events {
        var state = kvm_vcpu_events()
        try descriptor.control(CKVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS", with: &state, subject)
        return state
    }

    public func setEvents(_ state: kvm_vcpu_events) throws(KVMError) {
        var state = state
        try descriptor.control(CKVM_SET_VCPU_EVENTS, "KVM_SET_VCPU_EVENTS", with: &state, subject)
    }

    /// Runnable, halted, waiting for INIT or SIPI (`KVM_MP_STATE_*`).
    public func mpState() throws(KVMError) -> kvm_mp_state {
        var state = kvm_mp_state()
        try descriptor.control(CKVM_GET_MP_STATE, "KVM_GET_MP_STATE", with: &state, subject)
        return state
    }

    public func setMPState(_ state: kvm_mp_state) throws(KVMError) {
        var state = state
        try descriptor.control(CKVM_SET_MP_STATE, "KVM_SET_MP_STATE", with: &state, subject)
    }

    /// The LAPIC's registers.
    public func lapic() throws(KVMError) -> kvm_lapic_state {
        var state = kvm_lapic_state()
        try descriptor.control(CKVM_GET_LAPIC, "KVM_GET_LAPIC", with: &state, subject)
        return state
    }

    public func setLAPIC(_ state: kvm_lapic_state) throws(KVMError) {
        var state = state
        try descriptor.control(CKVM_SET_LAPIC, "KVM_SET_LAPIC", with: &state, subject)
    }

    /// The guest's TSC frequency in kHz.
    public func tscFrequency() throws(KVMError) -> Int {
        try descriptor.control(CKVM_GET_TSC_KHZ, "KVM_GET_TSC_KHZ", subject)
    }

    /// Another frequency than the host's needs KVM_CAP_TSC_CONTROL.
    public func setTSCFrequency(kiloHertz: Int) throws(KVMError) {
        try descriptor.control(CKVM_SET_TSC_KHZ, "KVM_SET_TSC_KHZ", value: UInt(bitPattern: kiloHertz), subject)
    }

    /// What KVM adds to the host's TSC; nil where KVM has no such attribute (before Linux 5.16).
    public func tscOffset() throws(KVMError) -> UInt64? {
        var value: UInt64 = 0
        do {
            try withTSCOffsetAttribute(CKVM_GET_DEVICE_ATTR, "KVM_GET_DEVICE_ATTR", &value)
            return value
        } catch {
            guard Self.isAbsent(error) else { throw error }
            return nil
        }
    }

    /// Some hosts accept this without effect: read it back (`kvm-feasibility`, section 4).
    public func setTSCOffset(_ offset: UInt64) throws(KVMError) {
        var value = offset
        try withTSCOffsetAttribute(CKVM_SET_DEVICE_ATTR, "KVM_SET_DEVICE_ATTR", &value)
    }

    /// Whether KVM has the attribute.
    public func hasTSCOffset() throws(KVMError) -> Bool {
        var value: UInt64 = 0
        do {
            try withTSCOffsetAttribute(CKVM_HAS_DEVICE_ATTR, "KVM_HAS_DEVICE_ATTR", &value)
            return true
        } catch {
            guard Self.isAbsent(error) else { throw error }
            return false
        }
    }

    /// What kernels without the attribute, or without any, answer.
    private static func isAbsent(_ error: KVMError) -> Bool { [ENXIO, ENOTTY, EINVAL].contains(error.errno) }

    private func withTSCOffsetAttribute(
        _ request: UInt, _ operation: StaticString, _ value: inout UInt64
    ) throws(KVMError) {
        let subject = subject
        let result = unsafe withUnsafeMutablePointer(to: &value) { place in
            var attribute = kvm_device_attr()
            attribute.group = UInt32(KVM_VCPU_TSC_CTRL)
            attribute.attr = UInt64(KVM_VCPU_TSC_OFFSET)
            attribute.addr = UInt64(UInt(bitPattern: place))
            return unsafe withUnsafeMutablePointer(to: &attribute) {
                unsafe ckvm_ioctl_pointer(descriptor.rawValue, request, $0)
            }
        }
        guard result >= 0 else { throw KVMError("\(operation)", result, "TSC offset of \(subject)") }
    }

    /// Tells the guest's kvmclock that it was stopped, so that its watchdogs forgive the gap. False when the guest
    /// has no kvmclock (KVM says EINVAL), which is no error.
    @discardableResult
    public func notifyClockPaused() throws(KVMError) -> Bool {
        do {
            try descriptor.control(CKVM_KVMCLOCK_CTRL, "KVM_KVMCLOCK_CTRL", subject)
            return true
        } catch {
            guard error.errno == EINVAL else { throw error }
            return false
        }
    }

    /// Injects a non-maskable interrupt.
    public func injectNMI() throws(KVMError) {
        try descriptor.control(CKVM_NMI, "KVM_NMI", subject)
    }
}
