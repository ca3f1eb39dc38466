/// States that differ from a fresh VM's in every part.

import CKVM
import KVM
import Units
import VMState

/// Reproducible bytes.
struct Bytes {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    mutating func below(_ limit: Int) -> Int { Int(next() % UInt64(limit)) }
}

enum GuestMode: CaseIterable {
    case real, pae, long
}

extension TestVM {
    /// Puts something else into everything that a vCPU has.
    func fill(vcpu index: Int, mode: GuestMode, seed: UInt64) throws {
        var bytes = Bytes(seed: seed)
        let vcpu = vcpus[index]
        try fillSystemRegisters(vcpu, mode)
        var r = kvm_regs()
        (r.rax, r.rbx, r.rcx, r.rdx) = (bytes.next(), bytes.next(), bytes.next(), bytes.next())
        (r.rsi, r.rdi, r.rsp, r.rbp) = (bytes.next(), bytes.next(), bytes.next(), bytes.next())
        (r.r8, r.r9, r.r10, r.r11) = (bytes.next(), bytes.next(), bytes.next(), bytes.next())
        (r.r12, r.r13, r.r14, r.r15) = (bytes.next(), bytes.next(), bytes.next(), bytes.next())
        (r.rip, r.rflags) = (0x1234, 0x246)
        try vcpu.setRegisters(r)
        try fillFloatingPoint(vcpu, &bytes)
        var debug = kvm_debugregs()
        debug.db = (0x1111, 0x2222, 0x3333, 0x4444)
        (debug.dr6, debug.dr7) = (0xFFFF_0FF1, 0x402)
        try vcpu.setDebugRegisters(debug)
        try fillMSRs(vcpu, &bytes)
        var events = kvm_vcpu_events()
        events.nmi.masked = 1
        events.interrupt.shadow = UInt8(KVM_X86_SHADOW_INT_STI)
        (events.exception.injected, events.exception.nr) = (1, 14)
        (events.exception.has_error_code, events.exception.error_code) = (1, 6)
        events.flags = UInt32(KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW)
        try vcpu.setEvents(events)
    }

    private func fillSystemRegisters(_ vcpu: VCPU, _ mode: GuestMode) throws {
        var s = try vcpu.segments()
        (s.fs.base, s.fs.selector, s.gs.base) = (0x7000, 0x700, 0x0123_4567)
        (s.gdt.base, s.gdt.limit, s.idt.base, s.idt.limit) = (0x2000, 0x7F, 0x3000, 0xFFF)
        (s.cr2, s.cr8) = (0xDEAD_BEEF, 5)
        if mode != .real {
            for segment in [\kvm_sregs2.cs, \.ds, \.es, \.ss] {
                s[keyPath: segment].selector = segment == \.cs ? 0x8 : 0x10
                s[keyPath: segment].base = 0
                s[keyPath: segment].limit = 0xFFFF_FFFF
                s[keyPath: segment].type = segment == \.cs ? 11 : 3
                s[keyPath: segment].g = 1
                s[keyPath: segment].db = mode == .long && segment == \.cs ? 0 : 1
                s[keyPath: segment].l = mode == .long && segment == \.cs ? 1 : 0
            }
            s.cr0 = 0x8005_0033  // PG WP NE ET MP PE
            s.cr4 = 0x0004_0620  // OSXSAVE OSXMMEXCPT OSFXSR PAE
            s.cr3 = 0x4000
            if mode == .long {
                s.efer = 0xD01  // NXE LMA LME SCE
                s.fs.base = 0x7FFF_1234_5678
                s.gs.base = 0xFFFF_8000_0000_1000
            } else {
                // The four page-directory pointers as the CPU has loaded them; memory says something else.
                s.flags = UInt64(KVM_SREGS2_FLAGS_PDPTRS_VALID)
                s.pdptrs = (0x5001, 0x6001, 0, 0x7001)
            }
        }
        try vcpu.setSegments(s)
    }

    /// x87, SSE and AVX: tags, control words, and a value in every register.
    private func fillFloatingPoint(_ vcpu: VCPU, _ bytes: inout Bytes) throws {
        var xcrs = kvm_xcrs()
        xcrs.nr_xcrs = 1
        xcrs.xcrs.0 = kvm_xcr(xcr: 0, reserved: 0, value: 7)
        try vcpu.setExtendedControlRegisters(xcrs)
        var area = try vcpu.xsave()
        func put(_ value: UInt64, at offset: Int, count: Int = 8) {
            for byte in 0..<count { area[offset + byte] = UInt8(truncatingIfNeeded: value >> UInt64(byte * 8)) }
        }
        put(0x037A, at: 0, count: 2)  // FCW
        put(0x3841, at: 2, count: 2)  // FSW
        put(0xFF, at: 4, count: 1)  // every x87 register in use
        put(0x5F80, at: 24, count: 4)  // MXCSR, rounding to zero
        for register in 0..<8 {
            put(bytes.next(), at: 32 + register * 16)
            put(0x3FFF + UInt64(register), at: 40 + register * 16, count: 2)
        }
        for half in 0..<32 { put(bytes.next(), at: 160 + half * 8) }
        put(7, at: 512)  // XSTATE_BV: x87, SSE and AVX are there
        let avx = host.cpuid[0xD, 2].map { Int($0.ebx) } ?? 576
        for half in 0..<32 { put(bytes.next(), at: avx + half * 8) }
        try vcpu.setXSave(area)
    }

    private func fillMSRs(_ vcpu: VCPU, _ bytes: inout Bytes) throws {
        var values: [UInt32: UInt64] = [
            0x174: 0x10, 0x175: 0x8000, 0x176: 0x9000,
            0x277: 0x0007_0106_0007_0406,
            0xC000_0081: 0x0023_0010_0000_0000, 0xC000_0082: 0xFFFF_8000_0000_2000,
            0xC000_0084: 0x4700, 0xC000_0102: 0xFFFF_8000_0000_3000, 0xC000_0103: bytes.next() & 0xFFFF,
            // The guest's clock and steal time pages.
            0x4B56_4D00: 0xA000, 0x4B56_4D01: 0xA041, 0x4B56_4D03: 0xB001,
        ]
        values = values.filter { host.msrs.contains($0.key) }
        let entries = values.map { kvm_msr_entry(index: $0.key, reserved: 0, data: $0.value) }
        try vcpu.writeMSRs(entries)
    }

    /// A LAPIC that is on, with its timer running towards an instant far away.
    func startTimer(_ vcpu: VCPU, deadline: UInt64? = nil, vector: UInt32 = 0x40) throws {
        var lapic = try vcpu.lapic()
        withUnsafeMutableBytes(of: &lapic.regs) { page in
            page.storeBytes(of: 0x1FF, toByteOffset: 0xF0, as: UInt32.self)  // SPIV: on
            let mode: UInt32 = deadline == nil ? 1 << 17 : 2 << 17  // periodic, or by TSC deadline
            page.storeBytes(of: vector | mode, toByteOffset: 0x320, as: UInt32.self)  // LVTT
            page.storeBytes(of: 0xB, toByteOffset: 0x3E0, as: UInt32.self)  // divide by 1
            page.storeBytes(of: deadline == nil ? 0xFFFF_FFF0 : 0, toByteOffset: 0x380, as: UInt32.self)  // TMICT
        }
        try vcpu.setLAPIC(lapic)
        if let deadline {
            try vcpu.writeMSRs([kvm_msr_entry(index: MSRNames.tscDeadline, reserved: 0, data: deadline)])
        }
    }

    /// PICs set up as a PC's firmware does, a line raised and masked; one IOAPIC pin in use; PIT channels set up, but
    /// none that ticks: the timer does not stop with the vCPUs, and its ticks would show in the PIC.
    func fillPlatform() throws {
        for (chip, base) in [(InterruptChip.picMaster, UInt8(0x20)), (.picSlave, 0x28)] {
            var state = try vm.interruptChip(chip)
            (state.chip.pic.irq_base, state.chip.pic.imr) = (base, 0xEE)
            (state.chip.pic.elcr, state.chip.pic.special_mask) = (0x08, 1)
            try vm.setInterruptChip(state)
        }
        var ioapic = try vm.interruptChip(.ioapic)
        ioapic.chip.ioapic.ioregsel = 0x12
        withUnsafeMutableBytes(of: &ioapic.chip.ioapic) { bytes in
            // Pin 9: vector 0x59, level-triggered, masked.
            bytes.storeBytes(of: 0x1_8059, toByteOffset: 24 + 9 * 8, as: UInt64.self)
        }
        try vm.setInterruptChip(ioapic)
        try vm.setInterruptLine(5, level: true)
        var pit = try vm.pit()
        pit.channels.0.count = 11932
        (pit.channels.0.mode, pit.channels.0.rw_mode, pit.channels.0.gate) = (5, 3, 1)
        (pit.channels.2.count, pit.channels.2.mode, pit.channels.2.rw_mode) = (0x1_0000, 3, 3)
        pit.flags = UInt32(KVM_PIT_FLAGS_SPEAKER_DATA_ON)
        try vm.setPIT(pit)
    }
}
