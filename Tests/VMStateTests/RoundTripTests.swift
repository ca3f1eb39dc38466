/// A state that was captured, restored into a new VM and captured again is the same, field by field.

import CKVM
import KVM
import Testing
import Units

@testable import VMState

/// Fields that move although nobody moves them, and why.
private let moving = [
    ".msr.IA32_TSC (0x10)",  // time goes on
    ".tsc.offset",  // made good for the time between, and for another host's TSC
    ".countLoadTime",  // KVM starts the PIT's period anew
    ".lapic+0x390",  // TMCCT, the timer's current count
]

private func difference(_ a: WholeState, _ b: WholeState) -> [String] {
    b.description.differences(from: a.description).filter { line in !moving.contains { line.contains($0) } }
}

@Suite(.enabled(if: isKVMUsable, "no usable /dev/kvm on this host"))
struct RoundTripTests {
    @Test func freshVM() throws {
        let source = try TestVM(vcpuCount: 2)
        let before = try source.capture()
        #expect(before.warnings.isEmpty)
        let destination = try TestVM(vcpuCount: 2, policy: source.policy)
        let warnings = try destination.restore(try before.transported())
        #expect(warnings == [])
        let after = try destination.capture()
        #expect(difference(before, after) == [])
    }
}
