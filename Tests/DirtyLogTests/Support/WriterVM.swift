import CKVM
import DirtyLog
import Foundation
import KVM
import Synchronization
import Units

/// A VM whose guest does nothing but write (or read) where the test wants it, in ring 3.
///
/// Slot 0, never logged, holds what the guest needs to run: page tables, task state, programs, lists of addresses. The
/// logged regions are others, so that what they show was written by the programs alone.
final class WriterVM: @unchecked Sendable {
    static let isAvailable = access("/dev/kvm", R_OK | W_OK) == 0
    static let hasRings = isAvailable && ((try? KVMSystem().check(.dirtyRing)) ?? 0) > 0

    struct Failure: Error, CustomStringConvertible { let description: String }

    let vm: VirtualMachine
    let vcpus: [VCPU]
    /// Guest RAM by region.
    let memory: [GuestMemory]
    let regions: [TrackedRegion]
    /// What a vCPU thread does when its ring is full.
    var onRingFull: () -> Void = {}

    private let system: GuestMemory
    private let stopping = Atomic<Bool>(false)
    private let threads = Mutex<[Runner]>([])

    private enum Layout {
        static let globalDescriptors = 0x3000
        static let taskState = 0x4000
        static let pageTables = 0x8000
        static let programs = 0xc000
        static let list = 2 << 20
        static let systemByteCount = 4 << 20
        /// Guest addresses of the regions; the guest maps the first GiB one to one.
        static let regions = [16 << 20, 768 << 20]
        static let port = 0x42
    }

    /// I/O privilege for ring 3, where it is honoured. QEMU's emulated hosts refuse the bitmap of a busy task state, which
    /// is the only kind a VM can be given; hosts with `kvm_pvm` honour nothing but the bitmap.
    private static let flags: UInt64 = 2 | 3 << 12

    /// Regions of these many pages (two at most; the first one's is a power of two for `writeRandomly`).
    init(
        pageCounts: [Int], vcpuCount: Int = 1, backing: MemoryBacking = .anonymous, hasHugePages: Bool = false,
        ringEntryCount: Int = 0
    ) throws {
        _ = ckvm_install_kick_handler()
        let kvm = try KVMSystem()
        vm = try kvm.makeVM()
        if ringEntryCount > 0 { try vm.enableDirtyRings(entryCount: ringEntryCount) }
        system = try GuestMemory(byteCount: Layout.systemByteCount, backing: .anonymous)
        try vm.setMemorySlot(0, guestAddress: GuestAddress(0), byteCount: system.byteCount, base: system.base)
        var memory: [GuestMemory] = []
        var regions: [TrackedRegion] = []
        for (index, pageCount) in pageCounts.enumerated() {
            let part = try GuestMemory(byteCount: pageCount * pageByteCount, backing: backing)
            if backing != .hugetlb { try part.setHugePages(hasHugePages) }
            try part.populate()
            // Slot numbers that are neither the region's index nor in its order.
            let region = TrackedRegion(
                slot: 7 - 2 * index, guestAddress: GuestAddress(UInt64(Layout.regions[index])), base: part.base,
                pageCount: pageCount, backing: backing)
            try vm.setMemorySlot(
                region.slot, guestAddress: region.guestAddress, byteCount: part.byteCount, base: part.base)
            memory.append(part)
            regions.append(region)
        }
        self.memory = memory
        self.regions = regions
        let cpuid = try kvm.supportedCPUID()
        vcpus = try (0..<vcpuCount).map { [vm] in try vm.makeVCPU(index: $0) }
        writeSystem()
        for vcpu in vcpus {
            try vcpu.setCPUID(cpuid)
            try vcpu.setSegments(ringThree(try vcpu.segments()))
        }
    }

    deinit { stop() }

    // MARK: Running

    /// Has the guest write 8 bytes to each of these pages of a region, in this order.
    func write(region: Int = 0, pages: [Int], value: UInt64 = 1) throws {
        try runList(GuestProgram.writeList, region: region, pages: pages, value: value)
    }

    /// Has the guest read 8 bytes of each of these pages.
    func read(region: Int = 0, pages: [Int]) throws {
        try runList(GuestProgram.readList, region: region, pages: pages, value: 0)
    }

    /// Lets all vCPUs write region 0 at random, until `stop`.
    func startWritingRandomly(seed: UInt64 = 1) throws {
        precondition(threads.withLock { $0.isEmpty })
        stopping.store(false, ordering: .sequentiallyConsistent)
        for vcpu in vcpus {
            var registers = kvm_regs()
            registers.rip = UInt64(Layout.programs)
            registers.rflags = Self.flags
            registers.rdi = regions[0].guestAddress.rawValue
            registers.rsi = UInt64(regions[0].pageCount * pageByteCount - 8)
            registers.r8 = (seed << 8 | UInt64(vcpu.index + 1)) &* 0x9E37_79B9_7F4A_7C15
            registers.r10 = 1 << 62
            registers.rdx = UInt64(Layout.port)
            try load(GuestProgram.writeRandomly, vcpu, registers)
        }
        let runners = vcpus.map { vcpu in Runner { [self] in try run(vcpu, until: .stopped) } }
        threads.withLock { $0 = runners }
    }

    /// Stops the vCPUs; returns how many writes they did.
    @discardableResult
    func stop() -> Int {
        let runners = threads.withLock { $0 }
        guard !runners.isEmpty else { return 0 }
        stopping.store(true, ordering: .sequentiallyConsistent)
        for vcpu in vcpus { vcpu.requestImmediateExit(true) }
        for runner in runners { runner.kick() }
        for runner in runners { runner.join() }
        threads.withLock { $0 = [] }
        for vcpu in vcpus { vcpu.requestImmediateExit(false) }
        return vcpus.reduce(0) { $0 + Int((try? $1.registers().r9) ?? 0) }
    }

    /// Signals the vCPUs' threads without stopping them.
    func kick() {
        threads.withLock { for thread in $0 { thread.kick() } }
    }

    private enum End { case port, stopped }

    private func run(_ vcpu: VCPU, until end: End) throws {
        while true {
            switch try vcpu.run() {
            case .portIO: if end == .port { return }
            case .interrupted: if end == .stopped, stopping.load(ordering: .sequentiallyConsistent) { return }
            case .dirtyRingFull: onRingFull()
            case let exit: throw Failure(description: "unexpected exit of vcpu \(vcpu.index): \(exit)")
            }
        }
    }

    private func runList(_ program: [UInt8], region: Int, pages: [Int], value: UInt64) throws {
        let addresses = pages.map { regions[region].guestAddress.rawValue + UInt64($0 * pageByteCount) }
        precondition(addresses.count * 8 <= Layout.systemByteCount - Layout.list)
        (system.base + Layout.list).copyMemory(from: addresses, byteCount: addresses.count * 8)
        var registers = kvm_regs()
        registers.rip = UInt64(Layout.programs)
        registers.rflags = Self.flags
        registers.rsi = UInt64(Layout.list)
        registers.rcx = UInt64(addresses.count)
        registers.r8 = value
        registers.rdx = UInt64(Layout.port)
        try load(program, vcpus[0], registers)
        try run(vcpus[0], until: .port)
    }

    /// A port access is still open after the last list: it is finished before the registers are replaced.
    private func load(_ program: [UInt8], _ vcpu: VCPU, _ registers: kvm_regs) throws {
        _ = try vcpu.completePendingAccess()
        (system.base + Layout.programs).copyMemory(from: program, byteCount: program.count)
        try vcpu.setRegisters(registers)
    }

    // MARK: The guest's world

    private func writeSystem() {
        // Identity map of the first GiB in pages of 2 MiB, present, writable, for ring 3.
        let tables = system.base + Layout.pageTables
        tables.storeBytes(of: UInt64(Layout.pageTables + 0x1000) | 7, as: UInt64.self)
        tables.storeBytes(of: UInt64(Layout.pageTables + 0x2000) | 7, toByteOffset: 0x1000, as: UInt64.self)
        for index in 0..<512 {
            tables.storeBytes(
                of: UInt64(index << 21) | 0xe7, toByteOffset: 0x2000 + index * 8, as: UInt64.self)
        }
        let descriptors = system.base + Layout.globalDescriptors
        descriptors.storeBytes(of: 0x00cf_f300_0000_ffff, toByteOffset: 0x28, as: UInt64.self)
        descriptors.storeBytes(of: 0x00af_fb00_0000_ffff, toByteOffset: 0x30, as: UInt64.self)
        // A task state whose I/O bitmap (all zeros) allows each port to ring 3.
        (system.base + Layout.taskState).storeBytes(of: 0x68, toByteOffset: 0x66, as: UInt16.self)
    }

    private func ringThree(_ old: kvm_sregs2) -> kvm_sregs2 {
        var new = old
        var data = kvm_segment()
        (data.limit, data.type, data.present, data.dpl, data.s, data.g) = (0xffff_ffff, 3, 1, 3, 1, 1)
        (data.selector, data.db) = (0x2b, 1)
        var code = data
        (code.selector, code.type, code.db, code.l) = (0x33, 11, 0, 1)
        (new.cs, new.ds, new.es, new.fs, new.gs, new.ss) = (code, data, data, data, data, data)
        var task = kvm_segment()
        (task.selector, task.base, task.limit) = (0x40, UInt64(Layout.taskState), 0x68 + 8192)
        (task.type, task.present) = (11, 1)
        new.tr = task
        (new.gdt.base, new.gdt.limit) = (UInt64(Layout.globalDescriptors), 0x4f)
        (new.idt.base, new.idt.limit) = (0, 0)
        new.cr0 = 0x8005_0033
        new.cr3 = UInt64(Layout.pageTables)
        new.cr4 = 0x620
        new.efer = 0xd00
        return new
    }
}

/// A thread that can be kicked out of KVM_RUN and waited for.
private final class Runner: @unchecked Sendable {
    private let tid = Atomic<Int32>(0)
    private let done = DispatchSemaphore(value: 0)
    private let isDone = Atomic<Bool>(false)

    init(_ body: @escaping @Sendable () throws -> Void) {
        let started = DispatchSemaphore(value: 0)
        Thread.detachNewThread { [self] in
            _ = ckvm_unblock_kick_signal()
            tid.store(ckvm_gettid(), ordering: .sequentiallyConsistent)
            started.signal()
            do { try body() } catch { print("vCPU thread: \(error)") }
            isDone.store(true, ordering: .sequentiallyConsistent)
            done.signal()
        }
        started.wait()
    }

    func kick() {
        if !isDone.load(ordering: .sequentiallyConsistent) {
            _ = ckvm_tgkill(getpid(), tid.load(ordering: .sequentiallyConsistent), ckvm_kick_signal())
        }
    }

    func join() { done.wait() }
}
