/// General, system and debug registers, and events: KVM's structures to messages and back. Both directions of a
/// structure stand side by side; a field that one has and the other lacks is a bug.

import CKVM
import StateSchema

extension WireGeneralRegisters {
    init(kernelValue r: kvm_regs) {
        self.init()
        (rax, rbx, rcx, rdx) = (r.rax, r.rbx, r.rcx, r.rdx)
        (rsi, rdi, rsp, rbp) = (r.rsi, r.rdi, r.rsp, r.rbp)
        (r8, r9, r10, r11) = (r.r8, r.r9, r.r10, r.r11)
        (r12, r13, r14, r15) = (r.r12, r.r13, r.r14, r.r15)
        (rip, rflags) = (r.rip, r.rflags)
    }

    var kernelValue: kvm_regs {
        var r = kvm_regs()
        (r.rax, r.rbx, r.rcx, r.rdx) = (rax, rbx, rcx, rdx)
        (r.rsi, r.rdi, r.rsp, r.rbp) = (rsi, rdi, rsp, rbp)
        (r.r8, r.r9, r.r10, r.r11) = (r8, r9, r10, r11)
        (r.r12, r.r13, r.r14, r.r15) = (r12, r13, r14, r15)
        (r.rip, r.rflags) = (rip, rflags)
        return r
    }
}

extension WireSegment {
    init(kernelValue s: kvm_segment) {
        self.init()
        (base, limit, selector) = (s.base, s.limit, UInt32(s.selector))
        (type, dpl) = (UInt32(s.type), UInt32(s.dpl))
        (present, db, self.s, l) = (s.present != 0, s.db != 0, s.s != 0, s.l != 0)
        (g, avl, unusable) = (s.g != 0, s.avl != 0, s.unusable != 0)
    }

    /// Of a checked segment.
    var kernelValue: kvm_segment {
        var segment = kvm_segment()
        (segment.base, segment.limit, segment.selector) = (base, limit, UInt16(truncatingIfNeeded: selector))
        (segment.type, segment.dpl) = (UInt8(truncatingIfNeeded: type), UInt8(truncatingIfNeeded: dpl))
        (segment.present, segment.db, segment.s, segment.l) = (present.bit, db.bit, s.bit, l.bit)
        (segment.g, segment.avl, segment.unusable) = (g.bit, avl.bit, unusable.bit)
        return segment
    }

    /// KVM keeps these in wider fields than the CPU has, and masks them only on some hosts.
    func check(_ name: String, _ checker: WireChecker) throws(StateError) {
        try checker.require(selector <= 0xFFFF, "\(name) selector", "\(selector)")
        try checker.require(type <= 0xF, "\(name) type", "\(type)")
        try checker.require(dpl <= 3, "\(name) privilege level", "\(dpl)")
    }
}

extension WireDescriptorTable {
    init(kernelValue table: kvm_dtable) {
        self.init()
        (base, limit) = (table.base, UInt32(table.limit))
    }

    /// Of a checked table.
    var kernelValue: kvm_dtable {
        var table = kvm_dtable()
        (table.base, table.limit) = (base, UInt16(truncatingIfNeeded: limit))
        return table
    }
}

extension WireSystemRegisters {
    init(kernelValue r: kvm_sregs2) {
        self.init()
        (cs, ds) = (WireSegment(kernelValue: r.cs), WireSegment(kernelValue: r.ds))
        (es, fs) = (WireSegment(kernelValue: r.es), WireSegment(kernelValue: r.fs))
        (gs, ss) = (WireSegment(kernelValue: r.gs), WireSegment(kernelValue: r.ss))
        (tr, ldt) = (WireSegment(kernelValue: r.tr), WireSegment(kernelValue: r.ldt))
        (gdt, idt) = (WireDescriptorTable(kernelValue: r.gdt), WireDescriptorTable(kernelValue: r.idt))
        (cr0, cr2, cr3, cr4, cr8) = (r.cr0, r.cr2, r.cr3, r.cr4, r.cr8)
        (efer, apicBase) = (r.efer, r.apic_base)
        if r.flags & UInt64(KVM_SREGS2_FLAGS_PDPTRS_VALID) != 0 {
            pdptrs = [r.pdptrs.0, r.pdptrs.1, r.pdptrs.2, r.pdptrs.3]
        }
    }

    /// Of checked registers.
    var kernelValue: kvm_sregs2 {
        var r = kvm_sregs2()
        (r.cs, r.ds, r.es, r.fs) = (cs.kernelValue, ds.kernelValue, es.kernelValue, fs.kernelValue)
        (r.gs, r.ss, r.tr, r.ldt) = (gs.kernelValue, ss.kernelValue, tr.kernelValue, ldt.kernelValue)
        (r.gdt, r.idt) = (gdt.kernelValue, idt.kernelValue)
        (r.cr0, r.cr2, r.cr3, r.cr4, r.cr8) = (cr0, cr2, cr3, cr4, cr8)
        (r.efer, r.apic_base) = (efer, apicBase)
        if pdptrs.count == 4 {
            r.flags = UInt64(KVM_SREGS2_FLAGS_PDPTRS_VALID)
            r.pdptrs = (pdptrs[0], pdptrs[1], pdptrs[2], pdptrs[3])
        }
        return r
    }

    /// Control registers that contradict each other are refused by KVM itself.
    func check(_ checker: WireChecker) throws(StateError) {
        for (name, segment) in segments { try segment.check(name, checker) }
        try checker.require(gdt.limit <= 0xFFFF, "gdt limit", "\(gdt.limit)")
        try checker.require(idt.limit <= 0xFFFF, "idt limit", "\(idt.limit)")
        // Four bits of priority.
        try checker.require(cr8 <= 0xF, "cr8", "\(cr8)")
        try checker.require(pdptrs.isEmpty || pdptrs.count == 4, "number of pdptrs", "\(pdptrs.count)")
    }

    var segments: [(name: String, segment: WireSegment)] {
        [("cs", cs), ("ds", ds), ("es", es), ("fs", fs), ("gs", gs), ("ss", ss), ("tr", tr), ("ldt", ldt)]
    }
}

extension WireDebugRegisters {
    init(kernelValue r: kvm_debugregs) {
        self.init()
        (dr0, dr1, dr2, dr3) = (r.db.0, r.db.1, r.db.2, r.db.3)
        (dr6, dr7) = (r.dr6, r.dr7)
    }

    var kernelValue: kvm_debugregs {
        var r = kvm_debugregs()
        r.db = (dr0, dr1, dr2, dr3)
        (r.dr6, r.dr7) = (dr6, dr7)
        return r
    }

    func check(_ checker: WireChecker) throws(StateError) {
        try checker.require(dr6 >> 32 == 0, "dr6", StateDescription.hex(dr6))
        try checker.require(dr7 >> 32 == 0, "dr7", StateDescription.hex(dr7))
    }
}

extension WireEvents {
    init(kernelValue e: kvm_vcpu_events) {
        self.init()
        (exceptionInjected, exceptionPending) = (e.exception.injected != 0, e.exception.pending != 0)
        (exceptionVector, exceptionErrorCode) = (UInt32(e.exception.nr), e.exception.error_code)
        exceptionHasErrorCode = e.exception.has_error_code != 0
        exceptionHasPayload = e.exception_has_payload != 0
        exceptionPayload = e.exception_payload
        (interruptInjected, interruptVector) = (e.interrupt.injected != 0, UInt32(e.interrupt.nr))
        (interruptSoft, interruptShadow) = (e.interrupt.soft != 0, UInt32(e.interrupt.shadow))
        (nmiInjected, nmiPending) = (e.nmi.injected != 0, UInt32(e.nmi.pending))
        nmiMasked = e.nmi.masked != 0
        (sipiVector, validFlags) = (e.sipi_vector, e.flags)
        (smm, smiPending) = (e.smi.smm != 0, e.smi.pending != 0)
        (smmInsideNmi, initLatched) = (e.smi.smm_inside_nmi != 0, e.smi.latched_init != 0)
        tripleFaultPending = e.triple_fault.pending != 0
    }

    /// Of checked events.
    var kernelValue: kvm_vcpu_events {
        var e = kvm_vcpu_events()
        (e.exception.injected, e.exception.pending) = (exceptionInjected.bit, exceptionPending.bit)
        e.exception.nr = UInt8(truncatingIfNeeded: exceptionVector)
        e.exception.has_error_code = exceptionHasErrorCode.bit
        e.exception.error_code = exceptionErrorCode
        e.exception_has_payload = exceptionHasPayload.bit
        e.exception_payload = exceptionPayload
        e.interrupt.injected = interruptInjected.bit
        e.interrupt.nr = UInt8(truncatingIfNeeded: interruptVector)
        e.interrupt.soft = interruptSoft.bit
        e.interrupt.shadow = UInt8(truncatingIfNeeded: interruptShadow)
        e.nmi.injected = nmiInjected.bit
        e.nmi.pending = UInt8(truncatingIfNeeded: nmiPending)
        e.nmi.masked = nmiMasked.bit
        (e.sipi_vector, e.flags) = (sipiVector, validFlags)
        (e.smi.smm, e.smi.pending) = (smm.bit, smiPending.bit)
        (e.smi.smm_inside_nmi, e.smi.latched_init) = (smmInsideNmi.bit, initLatched.bit)
        e.triple_fault.pending = tripleFaultPending.bit
        return e
    }

    func check(_ checker: WireChecker) throws(StateError) {
        try checker.require(exceptionVector <= 31, "exception vector", "\(exceptionVector)")
        try checker.require(interruptVector <= 255, "interrupt vector", "\(interruptVector)")
        try checker.require(interruptShadow <= 3, "interrupt shadow", "\(interruptShadow)")
        // KVM keeps at most two NMIs.
        try checker.require(nmiPending <= 2, "number of pending NMIs", "\(nmiPending)")
        try checker.require(sipiVector <= 255, "SIPI vector", "\(sipiVector)")
        try checker.require(validFlags & ~0x3F == 0, "event flags", StateDescription.hex(validFlags))
    }
}

extension Bool {
    /// As KVM's structures have it.
    fileprivate var bit: UInt8 { self ? 1 : 0 }
}
