/// A small VM on the real /dev/kvm, made by a policy, and its state as a whole.

import CKVM
import Glibc
import KVM
import Testing
import Units

import VMState

let isKVMUsable = access("/dev/kvm", R_OK | W_OK) == 0

/// Real mode, 2 MiB of memory, interrupt controllers and timer, one vCPU or more.
struct TestVM {
    let host: HostCPU
    let policy: CPUPolicy
    let memory: GuestMemory
    let vm: VirtualMachine
    let vcpus: [VCPU]

    /// By the host's own policy, or by one that came from elsewhere.
    init(vcpuCount: Int = 1, policy: CPUPolicy? = nil) throws {
        let system = try KVMSystem()
        host = try HostCPU(of: system)
        self.policy = policy ?? CPUPolicy(host: host, vcpuCount: vcpuCount)
        vm = try system.makeVM()
        try vm.setTSSAddress(GuestAddress(0xfffb_d000))
        try vm.createInterruptChips()
        try vm.createPIT()
        memory = try GuestMemory(byteCount: 2 << 20, backing: .anonymous)
        try vm.setMemorySlot(0, guestAddress: GuestAddress(0), byteCount: memory.byteCount, base: memory.base)
        var vcpus: [VCPU] = []
        for index in 0..<vcpuCount {
            let vcpu = try vm.makeVCPU(index: index)
            try self.policy.apply(to: vcpu)
            vcpus.append(vcpu)
        }
        self.vcpus = vcpus
    }

    /// Puts real-mode code at `address` and the vCPU in front of it.
    func load(_ code: [UInt8], at address: Int = 0x1000, vcpu index: Int = 0) throws {
        memory.base.advanced(by: address).copyMemory(from: code, byteCount: code.count)
        var segments = try vcpus[index].segments()
        (segments.cs.base, segments.cs.selector) = (0, 0)
        try vcpus[index].setSegments(segments)
        var registers = kvm_regs()
        (registers.rip, registers.rflags, registers.rsp) = (UInt64(address), 2, 0x8000)
        try vcpus[index].setRegisters(registers)
    }

    /// Everything that `VMState` knows of, in the order of a pause.
    func capture() throws -> WholeState {
        var whole = WholeState()
        for vcpu in vcpus {
            let (state, warnings) = try VCPUState.capture(from: vcpu, msrs: host.msrs.sorted())
            whole.vcpus.append(state)
            whole.warnings += warnings
        }
        whole.platform = try PlatformState.capture(from: vm)
        return whole
    }

    /// In the order of a restore.
    @discardableResult
    func restore(_ whole: WholeState, advance: ClockAdvance = .elapsed(peerOffset: 0)) throws -> [StateWarning] {
        let platform = try #require(whole.platform)
        var (continuation, warnings) = try platform.restoreClock(into: vm, advance: advance)
        for (vcpu, state) in zip(vcpus, whole.vcpus) {
            warnings += try state.restore(into: vcpu, clock: continuation)
        }
        try platform.restoreControllers(into: vm)
        return warnings
    }
}

struct WholeState {
    var vcpus: [VCPUState] = []
    var platform: PlatformState?
    var warnings: [StateWarning] = []

    /// Through bytes and back, as a migration does it.
    func transported() throws -> WholeState {
        let platform = try #require(platform)
        var copy = WholeState()
        copy.vcpus = try vcpus.map { try VCPUState(decoding: $0.encoded(), version: VCPUState.version) }
        copy.platform = PlatformState(
            irqchip: try IRQChipState(decoding: platform.irqchip.encoded(), version: 1),
            pit: try PITState(decoding: platform.pit.encoded(), version: 1),
            clock: try ClockState(decoding: platform.clock.encoded(), version: 1))
        return copy
    }

    /// All fields but the clock, which moves by its nature.
    var description: StateDescription {
        var rows = StateDescription()
        for (index, vcpu) in vcpus.enumerated() { rows.add("vcpu.\(index)", vcpu.stateDescription) }
        if let platform {
            rows.add("irqchip", platform.irqchip.stateDescription)
            rows.add("pit", platform.pit.stateDescription)
        }
        return rows
    }
}

/// Runs a vCPU until `stop` says so of an exit, and kicks it out of the guest when that takes too long.
/// Returns false then.
func run(_ vcpu: VCPU, timeout seconds: Double = 5, until stop: (VCPUExit) -> Bool) throws -> Bool {
    _ = ckvm_install_kick_handler()
    _ = ckvm_unblock_kick_signal()
    let deadline = ckvm_monotonic_nanoseconds() + UInt64(seconds * 1e9)
    let watchdog = Watchdog(deadline: deadline, thread: ckvm_gettid())
    defer { watchdog.stop() }
    while ckvm_monotonic_nanoseconds() < deadline {
        if stop(try vcpu.run()) { return true }
    }
    return false
}

/// A thread that kicks another one every 10 ms once a deadline is over, since a guest in HLT does not come back.
final class Watchdog: @unchecked Sendable {
    private var thread = pthread_t()
    private let deadline: UInt64
    private let target: Int32
    private var isDone: UInt32 = 0

    init(deadline: UInt64, thread target: Int32) {
        self.deadline = deadline
        self.target = target
        let body: @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? = { argument in
            if let argument { Unmanaged<Watchdog>.fromOpaque(argument).takeUnretainedValue().watch() }
            return nil
        }
        pthread_create(&thread, nil, body, Unmanaged.passUnretained(self).toOpaque())
    }

    private func watch() {
        var pause = timespec(tv_sec: 0, tv_nsec: 10_000_000)
        withUnsafePointer(to: &isDone) { word in
            while ckvm_futex_wait(word, 0, &pause) != -Int(EAGAIN) {
                guard word.pointee == 0 else { break }
                if ckvm_monotonic_nanoseconds() >= deadline { ckvm_tgkill(getpid(), target, ckvm_kick_signal()) }
            }
        }
    }

    func stop() {
        withUnsafePointer(to: &isDone) { word in
            UnsafeMutablePointer(mutating: word).pointee = 1
            ckvm_futex_wake(word, 1)
        }
        pthread_join(thread, nil)
    }
}
