/// A state that was captured, restored into a new VM and captured again is the same, field by field.

import CKVM
import KVM
import Testing
import Units
import VMState

/// Fields that move although nobody moves them, and why.
private let moving = [
    "msr.IA32_TSC (0x10)",  // time goes on
    "tsc.offset",  // made good for the time between, and for another host's TSC
    "countLoadTime",  // KVM starts the PIT's period anew
    "msr.HV_X64_MSR_40000010 (0x40000010)",  // VP_RUNTIME, where KVM has Hyper-V's registers: counts by itself
    "msr.HV_X64_MSR_40000020 (0x40000020)",  // TIME_REF_COUNT, likewise
    "lapic+0x390",  // TMCCT, the timer's current count
]

/// What differs without being allowed to.
func differences(_ a: WholeState, _ b: WholeState) -> [String] {
    b.description.differences(from: a.description).filter { line in !moving.contains { line.contains(".\($0):") } }
}

@Suite(.enabled(if: isKVMUsable, "no usable /dev/kvm on this host"))
struct RoundTripTests {
    /// Captures `source`, moves the bytes into a new VM of its policy, and captures that.
    private func moved(_ source: TestVM) throws -> (before: WholeState, after: WholeState, warnings: [StateWarning]) {
        let before = try source.capture()
        #expect(before.warnings == [])
        let destination = try TestVM(vcpuCount: source.vcpus.count, policy: source.policy)
        let warnings = try destination.restore(try before.transported())
        return (before, try destination.capture(), warnings)
    }

    @Test func freshVM() throws {
        let (before, after, warnings) = try moved(try TestVM(vcpuCount: 2))
        #expect(warnings == [])
        #expect(differences(before, after) == [])
    }

    @Test(arguments: GuestMode.allCases)
    func everyPartIsFilled(mode: GuestMode) throws {
        let source = try TestVM(vcpuCount: 2)
        let fresh = try source.capture()
        for index in 0..<2 { try source.fill(vcpu: index, mode: mode, seed: UInt64(index)) }
        try source.fillPlatform()
        try source.startTimer(source.vcpus[0])
        try source.startTimer(source.vcpus[1], deadline: ckvm_read_tsc() + 1 << 40)
        try source.vcpus[1].setMPState(kvm_mp_state(mp_state: UInt32(KVM_MP_STATE_HALTED)))

        let (before, after, warnings) = try moved(source)
        #expect(warnings == [])
        #expect(differences(before, after) == [])

        // The test has not compared emptiness with emptiness.
        let changed = Set(
            before.description.differences(from: fresh.description).map { line in String(line.prefix { $0 != ":" }) })
        var wanted: Set<String> = [
            "vcpu.1.mpState", "vcpu.1.msr.IA32_TSC_DEADLINE (0x6e0)", "irqchip.master.irqBase", "irqchip.slave.elcr",
            "irqchip.master.irr", "irqchip.ioapic.redirection.9", "pit.channel.0.count", "pit.flags",
        ]
        for field in [
            "general.r15", "system.fs.base", "system.cr2", "debug.dr3", "events.nmi.masked", "events.exception.vector",
            "xcr0", "msr.LSTAR (0xc0000082)", "msr.KVM_SYSTEM_TIME_NEW (0x4b564d01)", "lapic+0x320", "xsave+0x20",
            "xsave+0xa0", "xsave+0x240",
        ] {
            for vcpu in 0..<2 { wanted.insert("vcpu.\(vcpu).\(field)") }
        }
        // A KVM without hardware virtualisation drops CR0.PG outside long mode, and then has no such pointers.
        if mode == .pae, try source.vcpus[0].segments().cr0 >> 31 != 0 { wanted.insert("vcpu.0.system.pdptr0") }
        #expect(wanted.subtracting(changed) == [])
    }

    /// Fifteen moves in a row change nothing either.
    @Test func chainOfMoves() throws {
        let first = try TestVM(vcpuCount: 2)
        for index in 0..<2 { try first.fill(vcpu: index, mode: .long, seed: UInt64(7 + index)) }
        try first.fillPlatform()
        let before = try first.capture()
        var state = before
        for _ in 0..<15 {
            let next = try TestVM(vcpuCount: 2, policy: first.policy)
            try next.restore(try state.transported())
            state = try next.capture()
        }
        #expect(differences(before, state) == [])
    }
}
