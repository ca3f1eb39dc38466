/// What was under way in a guest goes on after the move: a timer, an interrupt, a halt.

import CKVM
import Glibc
import KVM
import Testing
import Units
import VMState

@Suite(.enabled(if: isKVMUsable, "no usable /dev/kvm on this host"), .serialized)
struct RunningGuestTests {
    /// 0x1000: sti; hlt; jmp 0x1000.  0x1100, the handler: mov al, 0x5a; out 0x10, al; iret.
    private static let sleeper: [UInt8] = [0xFB, 0xF4, 0xEB, 0xFC]
    private static let handler: [UInt8] = [0xB0, 0x5A, 0xE6, 0x10, 0xCF]

    private func loadSleeper(into guest: TestVM, vcpu: Int = 0, vector: Int) throws {
        try guest.load(Self.sleeper, vcpu: vcpu)
        guest.memory.base.advanced(by: 0x1100).copyMemory(from: Self.handler, byteCount: Self.handler.count)
        guest.memory.base.storeBytes(of: 0x0000_1100, toByteOffset: vector * 4, as: UInt32.self)
    }

    /// Source to destination: memory, then state.
    private func move(_ source: TestVM) throws -> TestVM {
        let destination = try TestVM(vcpuCount: source.vcpus.count, policy: source.policy)
        destination.memory.base.copyMemory(from: source.memory.base, byteCount: source.memory.byteCount)
        let state = try source.capture()
        try destination.restore(try state.transported())
        return destination
    }

    private func isSignOfLife(_ exit: VCPUExit) -> Bool {
        guard case .portIO(let access) = exit else { return false }
        return access.port == 0x10 && access.isWrite && access[0] == 0x5A
    }

    /// A guest that sleeps in HLT is woken by the deadline that it set before the move. Restored in any other order,
    /// the deadline is gone, and the guest sleeps for good.
    @Test func deadlineTimerSurvives() throws {
        let source = try TestVM()
        try loadSleeper(into: source, vector: 0x40)
        let deadline = ckvm_read_tsc() + UInt64(source.host.tscKHz) * 600
        try source.startTimer(source.vcpus[0], deadline: deadline)
        #expect(try !run(source.vcpus[0], timeout: 0.1, until: isSignOfLife))
        #expect(try source.vcpus[0].mpState().mp_state == UInt32(KVM_MP_STATE_HALTED))

        let destination = try move(source)
        let restored = try VCPUState.capture(from: destination.vcpus[0], msrs: [MSRNames.tscDeadline]).state
        #expect(restored.msr(MSRNames.tscDeadline) == deadline)
        #expect(try run(destination.vcpus[0], until: isSignOfLife))
        // Not at once, but when the deadline was over. A microsecond of doubt in the TSC's continuation is allowed.
        #expect(ckvm_read_tsc() + UInt64(source.host.tscKHz) > deadline)
    }

    /// The same for a periodic timer, several times.
    @Test func periodicTimerGoesOn() throws {
        let source = try TestVM()
        try loadSleeper(into: source, vector: 0x41)
        try source.startTimer(source.vcpus[0], vector: 0x41)
        // 2 ms at KVM's LAPIC frequency of 1 GHz; end of interrupt is not needed: the handler's second tick proves it.
        var lapic = try source.vcpus[0].lapic()
        withUnsafeMutableBytes(of: &lapic.regs) { $0.storeBytes(of: 2_000_000, toByteOffset: 0x380, as: UInt32.self) }
        try source.vcpus[0].setLAPIC(lapic)
        #expect(try run(source.vcpus[0], until: isSignOfLife))
        _ = try source.vcpus[0].completePendingAccess()
        let destination = try move(source)
        // The guest does not acknowledge, so clear the in-service register, as its EOI would.
        var restored = try destination.vcpus[0].lapic()
        withUnsafeMutableBytes(of: &restored.regs) { page in
            for offset in stride(from: 0x100, to: 0x180, by: 16) {
                page.storeBytes(of: 0, toByteOffset: offset, as: UInt32.self)
            }
        }
        try destination.vcpus[0].setLAPIC(restored)
        #expect(try run(destination.vcpus[0], until: isSignOfLife))
    }

    /// A line that was raised while the guest had interrupts off is delivered at the destination.
    @Test func pendingInterruptIsDelivered() throws {
        let source = try TestVM()
        try loadSleeper(into: source, vector: 0x25)
        var pic = try source.vm.interruptChip(.picMaster)
        (pic.chip.pic.irq_base, pic.chip.pic.imr) = (0x20, 0xDF)
        try source.vm.setInterruptChip(pic)
        try source.vm.setInterruptLine(5, level: true)
        let destination = try move(source)
        #expect(try run(destination.vcpus[0], until: isSignOfLife))
    }

    /// The PC's interval timer wakes the guest at the destination.
    @Test func intervalTimerGoesOn() throws {
        let source = try TestVM()
        try loadSleeper(into: source, vector: 0x20)
        var pic = try source.vm.interruptChip(.picMaster)
        (pic.chip.pic.irq_base, pic.chip.pic.imr) = (0x20, 0xFE)
        try source.vm.setInterruptChip(pic)
        var pit = try source.vm.pit()
        (pit.channels.0.count, pit.channels.0.mode, pit.channels.0.rw_mode, pit.channels.0.gate) = (23864, 2, 3, 1)
        try source.vm.setPIT(pit)
        let destination = try move(source)
        #expect(try run(destination.vcpus[0], until: isSignOfLife))
    }

    /// Both vCPUs are somewhere else in a loop of their own; each goes on where it was.
    @Test func twoVCPUsGoOn() throws {
        let source = try TestVM(vcpuCount: 2)
        // inc ax; out 0x10 + index, ax; jmp
        for index in 0..<2 {
            try source.load([0x40, 0xE7, UInt8(0x10 + index), 0xEB, 0xFB], at: 0x1000 + index * 0x100, vcpu: index)
            try source.vcpus[index].setMPState(kvm_mp_state(mp_state: UInt32(KVM_MP_STATE_RUNNABLE)))
        }
        var values: [UInt32] = [0, 0]
        func step(_ guest: TestVM, _ index: Int) throws {
            _ = try run(guest.vcpus[index]) { exit in
                guard case .portIO(let access) = exit else { return false }
                values[index] += 1
                #expect(access.port == 0x10 + index)
                #expect(access[0] == values[index])
                return true
            }
        }
        for _ in 0..<5 { try step(source, 0) }
        for _ in 0..<3 { try step(source, 1) }
        for vcpu in source.vcpus { _ = try vcpu.completePendingAccess() }
        let destination = try move(source)
        for _ in 0..<4 { for index in 0..<2 { try step(destination, index) } }
        #expect(values == [9, 7])
    }
}
