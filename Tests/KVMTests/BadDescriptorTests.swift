/// Every ioctl wrapper says which ioctl failed and why, tried with a descriptor that is none.

import CKVM
import Glibc
import KVM
import Testing
import Units

@Suite struct BadDescriptorTests {
    /// One wrapper, and the name that its error must carry.
    struct Case: CustomTestStringConvertible, Sendable {
        let operation: String
        let call: @Sendable () throws -> Void
        var testDescription: String { operation }
    }

    static func system() -> KVMSystem { KVMSystem(adopting: -1) }
    static func vm() -> VirtualMachine { VirtualMachine(adopting: -1, vcpuMappingSize: 4096) }
    static func vcpu(modern: Bool = true) throws -> VCPU {
        try VCPU(adopting: -1, hasExtendedSegments: modern, hasXSave2: modern)
    }
    static func fault() -> Userfaultfd { Userfaultfd(adopting: -1) }

    static let systemCases: [Case] = [
        Case(operation: "KVM_GET_API_VERSION") { _ = try system().apiVersion() },
        Case(operation: "KVM_CHECK_EXTENSION") { _ = try system().check(.irqchip) },
        Case(operation: "KVM_GET_VCPU_MMAP_SIZE") { _ = try system().vcpuMappingSize() },
        Case(operation: "KVM_GET_SUPPORTED_CPUID") { _ = try system().supportedCPUID() },
        Case(operation: "KVM_GET_MSR_INDEX_LIST") { _ = try system().saveableMSRs() },
        Case(operation: "KVM_CREATE_VM") { _ = try system().makeVM() },
    ]

    static let vmCases: [Case] = [
        Case(operation: "KVM_CHECK_EXTENSION") { _ = try vm().check(.irqchip) },
        Case(operation: "KVM_ENABLE_CAP") { try vm().enable(.manualDirtyLogProtect, argument: 1) },
        Case(operation: "KVM_CREATE_VCPU") { _ = try vm().makeVCPU(index: 0) },
        Case(operation: "KVM_SET_USER_MEMORY_REGION") { try vm().removeMemorySlot(0) },
        Case(operation: "KVM_GET_DIRTY_LOG") {
            try vm().getDirtyLog(slot: 0, into: UnsafeMutableBufferPointer(start: nil, count: 0))
        },
        Case(operation: "KVM_CLEAR_DIRTY_LOG") {
            try vm().clearDirtyLog(
                slot: 0, firstPage: PageIndex(0), pageCount: 0,
                bitmap: UnsafeBufferPointer(start: nil, count: 0))
        },
        Case(operation: "KVM_RESET_DIRTY_RINGS") { _ = try vm().resetDirtyRings() },
        Case(operation: "KVM_SET_TSS_ADDR") { try vm().setTSSAddress(GuestAddress(0xfffb_d000)) },
        Case(operation: "KVM_SET_IDENTITY_MAP_ADDR") { try vm().setIdentityMapAddress(GuestAddress(0xfffb_c000)) },
        Case(operation: "KVM_CREATE_IRQCHIP") { try vm().createInterruptChips() },
        Case(operation: "KVM_GET_IRQCHIP") { _ = try vm().interruptChip(.ioapic) },
        Case(operation: "KVM_SET_IRQCHIP") { try vm().setInterruptChip(kvm_irqchip()) },
        Case(operation: "KVM_CREATE_PIT2") { try vm().createPIT() },
        Case(operation: "KVM_GET_PIT2") { _ = try vm().pit() },
        Case(operation: "KVM_SET_PIT2") { try vm().setPIT(kvm_pit_state2()) },
        Case(operation: "KVM_IRQ_LINE") { try vm().setInterruptLine(4, level: true) },
        Case(operation: "KVM_SIGNAL_MSI") { try vm().signalMSI(address: 0xfee0_0000, data: 0x40) },
        Case(operation: "KVM_IRQFD") { try vm().setInterruptEvent(eventfd: -1, line: 4) },
        Case(operation: "KVM_IOEVENTFD") { try vm().setIOEvent(eventfd: -1, address: 0x500, length: 1, isPort: true) },
        Case(operation: "KVM_GET_CLOCK") { _ = try vm().clock() },
        Case(operation: "KVM_SET_CLOCK") { try vm().setClock(kvm_clock_data()) },
    ]

    static let vcpuCases: [Case] = [
        Case(operation: "KVM_RUN") { _ = try vcpu().run() },
        Case(operation: "KVM_GET_REGS") { _ = try vcpu().registers() },
        Case(operation: "KVM_SET_REGS") { try vcpu().setRegisters(kvm_regs()) },
        Case(operation: "KVM_GET_SREGS2") { _ = try vcpu().segments() },
        Case(operation: "KVM_SET_SREGS2") { try vcpu().setSegments(kvm_sregs2()) },
        Case(operation: "KVM_GET_SREGS") { _ = try vcpu(modern: false).segments() },
        Case(operation: "KVM_SET_SREGS") { try vcpu(modern: false).setSegments(kvm_sregs2()) },
        Case(operation: "KVM_GET_XSAVE2") { _ = try vcpu().xsave() },
        Case(operation: "KVM_GET_XSAVE") { _ = try vcpu(modern: false).xsave() },
        Case(operation: "KVM_SET_XSAVE") { try vcpu().setXSave([]) },
        Case(operation: "KVM_GET_XCRS") { _ = try vcpu().extendedControlRegisters() },
        Case(operation: "KVM_SET_XCRS") { try vcpu().setExtendedControlRegisters(kvm_xcrs()) },
        Case(operation: "KVM_GET_DEBUGREGS") { _ = try vcpu().debugRegisters() },
        Case(operation: "KVM_SET_DEBUGREGS") { try vcpu().setDebugRegisters(kvm_debugregs()) },
        Case(operation: "KVM_GET_MSRS") { _ = try vcpu().readMSRs([0x10]) },
        Case(operation: "KVM_SET_MSRS") { try vcpu().writeMSRs([]) },
        Case(operation: "KVM_GET_CPUID2") { _ = try vcpu().cpuid() },
        Case(operation: "KVM_SET_CPUID2") { try vcpu().setCPUID([]) },
        Case(operation: "KVM_GET_VCPU_EVENTS") { _ = try vcpu().events() },
        Case(operation: "KVM_SET_VCPU_EVENTS") { try vcpu().setEvents(kvm_vcpu_events()) },
        Case(operation: "KVM_GET_MP_STATE") { _ = try vcpu().mpState() },
        Case(operation: "KVM_SET_MP_STATE") { try vcpu().setMPState(kvm_mp_state()) },
        Case(operation: "KVM_GET_LAPIC") { _ = try vcpu().lapic() },
        Case(operation: "KVM_SET_LAPIC") { try vcpu().setLAPIC(kvm_lapic_state()) },
        Case(operation: "KVM_GET_TSC_KHZ") { _ = try vcpu().tscFrequency() },
        Case(operation: "KVM_SET_TSC_KHZ") { try vcpu().setTSCFrequency(kiloHertz: 1) },
        Case(operation: "KVM_HAS_DEVICE_ATTR") { _ = try vcpu().hasTSCOffset() },
        Case(operation: "KVM_GET_DEVICE_ATTR") { _ = try vcpu().tscOffset() },
        Case(operation: "KVM_SET_DEVICE_ATTR") { try vcpu().setTSCOffset(0) },
        Case(operation: "KVM_KVMCLOCK_CTRL") { try vcpu().notifyClockPaused() },
        Case(operation: "KVM_NMI") { try vcpu().injectNMI() },
    ]

    static let memoryCases: [Case] = [
        Case(operation: "UFFDIO_REGISTER") { try fault().register(start: 0, byteCount: 4096, mode: 1) },
        Case(operation: "UFFDIO_UNREGISTER") { try fault().unregister(start: 0, byteCount: 4096) },
        Case(operation: "UFFDIO_WAKE") { try fault().wake(start: 0, byteCount: 4096) },
        Case(operation: "UFFDIO_WRITEPROTECT") {
            try fault().writeProtect(start: 0, byteCount: 4096, isProtected: true)
        },
        Case(operation: "UFFDIO_COPY") {
            var page = [UInt8](repeating: 0, count: 4096)
            _ = try fault().copy(to: 0, from: &page, byteCount: 4096)
        },
        Case(operation: "UFFDIO_ZEROPAGE") { _ = try fault().zeroPages(start: 0, byteCount: 4096) },
        Case(operation: "UFFDIO_CONTINUE") { _ = try fault().mapExisting(start: 0, byteCount: 4096) },
        Case(operation: "UFFDIO_MOVE") { _ = try fault().move(to: 0, from: 0, byteCount: 4096) },
        Case(operation: "read") {
            var events = [uffd_msg()]
            _ = try events.withUnsafeMutableBufferPointer { try fault().readEvents(into: $0) }
        },
        Case(operation: "PAGEMAP_SCAN") {
            try Pagemap(adopting: -1, canScan: true)
                .scan(start: 0, byteCount: 4096, filter: PagemapFilter()) { _ in }
        },
    ]

    @Test("a bad descriptor is reported by name", arguments: systemCases + vmCases + vcpuCases + memoryCases)
    func namesTheCall(_ item: Case) {
        #expect { try item.call() } throws: { error in
            guard let error = error as? KVMError else { return false }
            return error.errno == EBADF && error.operation == item.operation
                && error.description.contains("Bad file descriptor (EBADF)")
        }
    }
}
