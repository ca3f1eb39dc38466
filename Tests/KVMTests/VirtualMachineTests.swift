/// The handles against the real /dev/kvm: a few instructions run, state goes in and out.

import CKVM
import Glibc
import KVM
import Testing
import Units

@Suite(.enabled(if: access("/dev/kvm", R_OK | W_OK) == 0, "no usable /dev/kvm on this host"))
struct VirtualMachineTests {
    /// A VM with one vCPU in real mode at 0x1000, where `code` lies.
    struct Tiny {
        let memory: GuestMemory
        let vm: VirtualMachine
        let vcpu: VCPU

        init(code: [UInt8], ring: Int = 0, logs: Bool = false) throws {
            let system = try KVMSystem()
            vm = try system.makeVM()
            if ring > 0 { try vm.enableDirtyRings(entryCount: ring) }
            memory = try GuestMemory(byteCount: 2 << 20, backing: .anonymous)
            memory.base.advanced(by: 0x1000).copyMemory(from: code, byteCount: code.count)
            try vm.setMemorySlot(
                0, guestAddress: GuestAddress(0), byteCount: memory.byteCount, base: memory.base,
                logsDirtyPages: logs)
            vcpu = try vm.makeVCPU(index: 0)
            var segments = try vcpu.segments()
            segments.cs.base = 0
            segments.cs.selector = 0
            try vcpu.setSegments(segments)
            var registers = kvm_regs()
            registers.rip = 0x1000
            registers.rflags = 2
            try vcpu.setRegisters(registers)
        }
    }

    @Test func capabilitiesAreThere() throws {
        let system = try KVMSystem()
        #expect(try system.check(.userMemory) > 0)
        #expect(try system.check(.immediateExit) > 0)
        #expect(try !system.supportedCPUID().isEmpty)
        #expect(try system.saveableMSRs().contains(0x10))
        #expect(throws: KVMError.self) { try KVMSystem(path: "/dev/null") }
        #expect(throws: KVMError.self) { try KVMSystem(path: "/nowhere/kvm") }
    }

    /// in al, 0x10 ; out 0x11, al ; mov [0x2000], al ; hlt
    @Test func portsMemoryAndHalt() throws {
        let tiny = try Tiny(code: [0xe4, 0x10, 0xe6, 0x11, 0xa2, 0x00, 0x20, 0xf4])
        guard case .portIO(let input) = try tiny.vcpu.run() else { Issue.record("no input"); return }
        #expect(input.port == 0x10 && !input.isWrite && input.size == 1 && input.count == 1)
        input[0] = 0x77
        guard case .portIO(let output) = try tiny.vcpu.run() else { Issue.record("no output"); return }
        #expect(output.port == 0x11 && output.isWrite && output[0] == 0x77)
        guard case .halted = try tiny.vcpu.run() else { Issue.record("no halt"); return }
        #expect(tiny.memory.base.load(fromByteOffset: 0x2000, as: UInt8.self) == 0x77)
    }

    /// A pending input is completed without running on: AL has the value, and RIP is behind the instruction.
    @Test func pendingInputIsCompleted() throws {
        let tiny = try Tiny(code: [0xe4, 0x10, 0xeb, 0xfe])
        guard case .portIO(let input) = try tiny.vcpu.run() else { Issue.record("no input"); return }
        input[0] = 0x42
        guard case .interrupted = try tiny.vcpu.completePendingAccess() else { Issue.record("ran on"); return }
        let registers = try tiny.vcpu.registers()
        #expect(registers.rax & 0xff == 0x42)
        #expect(registers.rip == 0x1002)
    }

    /// In a VM whose memory ends at 0x2000.
    @Test func memoryOutsideTheSlotExits() throws {
        let system = try KVMSystem()
        let vm = try system.makeVM()
        let memory = try GuestMemory(byteCount: 0x2000, backing: .anonymous)
        let code: [UInt8] = [0xa0, 0x34, 0x82, 0xa2, 0x35, 0x82, 0xf4]  // mov al,[0x8234]; mov [0x8235],al
        memory.base.advanced(by: 0x1000).copyMemory(from: code, byteCount: code.count)
        try vm.setMemorySlot(0, guestAddress: GuestAddress(0), byteCount: 0x2000, base: memory.base)
        let vcpu = try vm.makeVCPU(index: 0)
        var segments = try vcpu.segments()
        segments.cs.base = 0
        segments.cs.selector = 0
        try vcpu.setSegments(segments)
        try vcpu.setRegisters(
            {
                var r = kvm_regs(); r.rip = 0x1000; r.rflags = 2; return r
            }())
        guard case .memoryIO(let read) = try vcpu.run() else { Issue.record("no read"); return }
        #expect(read.address == GuestAddress(0x8234) && !read.isWrite && read.length == 1)
        read.value = 0x99
        guard case .memoryIO(let write) = try vcpu.run() else { Issue.record("no write"); return }
        #expect(write.isWrite && write.value == 0x99 && write.address == GuestAddress(0x8235))
    }

    /// mov [0x3000], al ; mov [0x5000], al ; hlt
    static let twoWrites: [UInt8] = [0xa2, 0x00, 0x30, 0xa2, 0x00, 0x50, 0xf4]

    @Test func dirtyLogNamesTheWrittenPages() throws {
        let tiny = try Tiny(code: Self.twoWrites, logs: true)
        guard case .halted = try tiny.vcpu.run() else { Issue.record("no halt"); return }
        var bitmap = [UInt64](repeating: 0, count: 8)
        try bitmap.withUnsafeMutableBufferPointer { try tiny.vm.getDirtyLog(slot: 0, into: $0) }
        #expect(bitmap[0] & 0b101000 == 0b101000)
        #expect(bitmap[1...].allSatisfy { $0 == 0 })
    }

    @Test(
        .enabled(
            if: (try? KVMSystem().check(.dirtyRing)).map { $0 > 0 } ?? false, "this KVM has no dirty rings"))
    func dirtyRingNamesTheWrittenPages() throws {
        let tiny = try Tiny(code: Self.twoWrites, ring: 1024, logs: true)
        guard case .halted = try tiny.vcpu.run() else { Issue.record("no halt"); return }
        let ring = try #require(tiny.vcpu.dirtyRing)
        var taken = [kvm_dirty_gfn](repeating: kvm_dirty_gfn(), count: 64)
        let count = taken.withUnsafeMutableBufferPointer { ring.harvest(into: $0) }
        #expect(Set(taken.prefix(count).map(\.offset)).isSuperset(of: [3, 5]))
        #expect(try tiny.vm.resetDirtyRings() == count)
        #expect(taken.withUnsafeMutableBufferPointer { ring.harvest(into: $0) } == 0)
    }

    @Test func stateGoesInAndOut() throws {
        let system = try KVMSystem()
        let vm = try system.makeVM()
        try vm.setTSSAddress(GuestAddress(0xfffb_d000))
        try vm.createInterruptChips()
        try vm.createPIT()
        let vcpu = try vm.makeVCPU(index: 0)
        try vcpu.setCPUID(try system.supportedCPUID())
        #expect(try !vcpu.cpuid().isEmpty)

        var registers = try vcpu.registers()
        registers.r15 = 0xfeed_f00d
        try vcpu.setRegisters(registers)
        #expect(try vcpu.registers().r15 == 0xfeed_f00d)

        var xsave = try vcpu.xsave()
        #expect(xsave.count == vcpu.xsaveByteCount)
        try vcpu.setXSave(xsave)
        xsave.append(0)
        #expect(throws: KVMError.self) { try vcpu.setXSave(xsave) }

        try vcpu.setExtendedControlRegisters(try vcpu.extendedControlRegisters())
        try vcpu.setDebugRegisters(try vcpu.debugRegisters())
        try vcpu.setEvents(try vcpu.events())
        try vcpu.setMPState(try vcpu.mpState())
        try vcpu.setLAPIC(try vcpu.lapic())
        #expect(try vcpu.tscFrequency() > 0)
        if let offset = try vcpu.tscOffset() { try vcpu.setTSCOffset(offset) }
        for chip in InterruptChip.allCases { try vm.setInterruptChip(try vm.interruptChip(chip)) }
        try vm.setPIT(try vm.pit())
        var clock = try vm.clock()
        clock.flags = 0
        try vm.setClock(clock)
        try vm.setInterruptLine(4, level: true)
        try vm.setInterruptLine(4, level: false)
        // An interrupt for a LAPIC that is still off goes nowhere, which is no error.
        try vm.signalMSI(address: 0xFEE0_0000, data: 0x40)
        let event = ckvm_eventfd(0, 0)
        defer { close(event) }
        try vm.setInterruptEvent(eventfd: event, line: 5)
        try vm.setInterruptEvent(eventfd: event, line: 5, isAssigned: false)
        try vcpu.injectNMI()
        #expect(try !vcpu.notifyClockPaused(), "no guest has set up a kvmclock yet")

        let list = try system.saveableMSRs()
        let saved = try vcpu.readMSRs(list)
        #expect(saved.stoppedAt == nil && saved.entries.count == list.count)
        let stopped = try vcpu.readMSRs([0x10, 0xdead_0000, 0x174])
        #expect(stopped.stoppedAt == 0xdead_0000 && stopped.entries.count == 1)
    }

    /// An eventfd raised by a port write, without an exit to this process.
    @Test func ioEventSwallowsTheExit() throws {
        let tiny = try Tiny(code: [0xe6, 0x44, 0xf4])
        let event = ckvm_eventfd(0, 0)
        defer { close(event) }
        try tiny.vm.setIOEvent(eventfd: event, address: 0x44, length: 1, isPort: true)
        guard case .halted = try tiny.vcpu.run() else { Issue.record("an exit"); return }
        var value: UInt64 = 0
        #expect(ckvm_read(event, &value, 8) == 8 && value == 1)
        try tiny.vm.setIOEvent(eventfd: event, address: 0x44, length: 1, isPort: true, isAssigned: false)
    }
}
