/// A vCPU's registers: general, segment and control, floating point, debug.

import CKVM

extension VCPU {
    /// General registers, RIP and RFLAGS.
    public func registers() throws(KVMError) -> kvm_regs {
        var state = kvm_regs()
        try descriptor.control(CKVM_GET_REGS, "KVM_GET_REGS", with: &state, subject)
        return state
    }

    public func setRegisters(_ state: kvm_regs) throws(KVMError) {
        var state = state
        try descriptor.control(CKVM_SET_REGS, "KVM_SET_REGS", with: &state, subject)
    }

    /// Segment and control registers. On kernels without KVM_CAP_SREGS2 the page-directory pointers are absent
    /// (flag KVM_SREGS2_FLAGS_PDPTRS_VALID clear), as KVM reads them from guest memory then.
    public func segments() throws(KVMError) -> kvm_sregs2 {
        var state = kvm_sregs2()
        if hasExtendedSegments {
            try descriptor.control(CKVM_GET_SREGS2, "KVM_GET_SREGS2", with: &state, subject)
            return state
        }
        let old = try legacySegments()
        (state.cs, state.ds, state.es, state.fs) = (old.cs, old.ds, old.es, old.fs)
        (state.gs, state.ss, state.tr, state.ldt) = (old.gs, old.ss, old.tr, old.ldt)
        (state.gdt, state.idt) = (old.gdt, old.idt)
        (state.cr0, state.cr2, state.cr3, state.cr4, state.cr8) = (old.cr0, old.cr2, old.cr3, old.cr4, old.cr8)
        (state.efer, state.apic_base) = (old.efer, old.apic_base)
        return state
    }

    public func setSegments(_ state: kvm_sregs2) throws(KVMError) {
        if hasExtendedSegments {
            var state = state
            try descriptor.control(CKVM_SET_SREGS2, "KVM_SET_SREGS2", with: &state, subject)
            return
        }
        var old = kvm_sregs()
        (old.cs, old.ds, old.es, old.fs) = (state.cs, state.ds, state.es, state.fs)
        (old.gs, old.ss, old.tr, old.ldt) = (state.gs, state.ss, state.tr, state.ldt)
        (old.gdt, old.idt) = (state.gdt, state.idt)
        (old.cr0, old.cr2, old.cr3, old.cr4, old.cr8) = (state.cr0, state.cr2, state.cr3, state.cr4, state.cr8)
        (old.efer, old.apic_base) = (state.efer, state.apic_base)
        try setLegacySegments(old)
    }

    /// KVM_GET_SREGS, which also tells an injected but undelivered interrupt.
    public func legacySegments() throws(KVMError) -> kvm_sregs {
        var state = kvm_sregs()
        try descriptor.control(CKVM_GET_SREGS, "KVM_GET_SREGS", with: &state, subject)
        return state
    }

    public func setLegacySegments(_ state: kvm_sregs) throws(KVMError) {
        var state = state
        try descriptor.control(CKVM_SET_SREGS, "KVM_SET_SREGS", with: &state, subject)
    }

    /// The XSAVE area (x87, SSE, AVX and beyond), `xsaveByteCount` bytes.
    public func xsave() throws(KVMError) -> [UInt8] {
        let buffer = FlexibleBuffer<UInt64, UInt8>(capacity: xsaveByteCount)
        if hasXSave2 {
            try unsafe descriptor.control(CKVM_GET_XSAVE2, "KVM_GET_XSAVE2", at: buffer.pointer, subject)
        } else {
            try unsafe descriptor.control(CKVM_GET_XSAVE, "KVM_GET_XSAVE", at: buffer.pointer, subject)
        }
        return unsafe Array(UnsafeRawBufferPointer(start: buffer.pointer, count: xsaveByteCount))
    }

    /// Bytes that are missing at the end count as zero; more than `xsaveByteCount` is an error (EINVAL), as this host
    /// could not keep them.
    public func setXSave(_ bytes: [UInt8]) throws(KVMError) {
        guard bytes.count <= xsaveByteCount else {
            throw KVMError(operation: "KVM_SET_XSAVE", errno: 22, subject: subject)
        }
        let buffer = FlexibleBuffer<UInt64, UInt8>(capacity: xsaveByteCount)
        unsafe buffer.pointer.copyMemory(from: bytes, byteCount: bytes.count)
        try unsafe descriptor.control(CKVM_SET_XSAVE, "KVM_SET_XSAVE", at: buffer.pointer, subject)
    }

    /// The extended control registers (XCR0).
    public func extendedControlRegisters() throws(KVMError) -> kvm_xcrs {
        var state = kvm_xcrs()
        try descriptor.control(CKVM_GET_XCRS, "KVM_GET_XCRS", with: &state, subject)
        return state
    }

    public func setExtendedControlRegisters(_ state: kvm_xcrs) throws(KVMError) {
        var state = state
        try descriptor.control(CKVM_SET_XCRS, "KVM_SET_XCRS", with: &state, subject)
    }

    public func debugRegisters() throws(KVMError) -> kvm_debugregs {
        var state = kvm_debugregs()
        try descriptor.control(CKVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS", with: &state, subject)
        return state
    }

    public func setDebugRegisters(_ state: kvm_debugregs) throws(KVMError) {
        var state = state
        try descriptor.control(CKVM_SET_DEBUGREGS, "KVM_SET_DEBUGREGS", with: &state, subject)
    }
}
