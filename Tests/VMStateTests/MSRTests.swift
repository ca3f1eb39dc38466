/// MSRs that fail: named, never passed over in silence (docs/state.md, "MSRs").

import CKVM
import KVM
import Testing
import VMState

@Suite(.enabled(if: isKVMUsable, "no usable /dev/kvm on this host"))
struct MSRTests {
    /// The bytes of a further MSR in a vCPU's section.
    private func msrField(_ index: UInt32, _ value: UInt64) -> [UInt8] {
        var message: [UInt8] = [0x08]
        var rest = index
        while rest > 0x7F {
            message.append(UInt8(rest & 0x7F) | 0x80)
            rest >>= 7
        }
        message.append(UInt8(rest))
        message.append(0x11)
        for shift in stride(from: 0, to: 64, by: 8) {
            message.append(UInt8(truncatingIfNeeded: value >> UInt64(shift)))
        }
        return [0x32, UInt8(message.count)] + message
    }

    @Test func unreadableIsNamedAndTheRestIsRead() throws {
        let vm = try TestVM()
        let list = vm.host.msrs.sorted()
        // In the middle, and at both ends.
        let asked = [0x0BAD_0001] + list.prefix(5) + [0x0BAD_0002] + list.dropFirst(5) + [0x0BAD_0003]
        let (state, warnings) = try VCPUState.capture(from: vm.vcpus[0], msrs: Array(asked))
        #expect(warnings.map(\.code) == [.unreadableMSR, .unreadableMSR, .unreadableMSR])
        #expect(
            warnings.first?.description
                == "vcpu 0: KVM lists MSR 0xbad0001 as saveable but does not read it; it is not carried")
        for index in list { #expect(state.msr(index) != nil) }
        let rows = try VCPUState(decoding: state.encoded(), version: 1).stateDescription.rows
        #expect(rows.contains(.init(name: "unreadableMSR.MSR 0xbad0002", value: "not carried")))
    }

    /// Guest state that KVM does not take is lost state: the restore fails and names every such MSR.
    @Test func refusedIsAnErrorWithAllNames() throws {
        let vm = try TestVM()
        let bytes = try VCPUState.capture(from: vm.vcpus[0], msrs: vm.host.msrs.sorted()).state.encoded()
        let state = try VCPUState(
            decoding: bytes + msrField(0x0BAD_0001, 5) + msrField(0x0BAD_0002, 6), version: 1)
        let other = try TestVM()
        let error = #expect(throws: StateError.self) { try state.restore(into: other.vcpus[0], clock: nil) }
        #expect(error?.code == .incompatibleHost)
        #expect(
            error?.message == "vcpu 0: KVM on this host refuses MSR 0xbad0001 = 0x5, MSR 0xbad0002 = 0x6")
    }

    /// An MSR behind a feature that the guest does not have cannot hold anything of it: a warning.
    @Test func refusedButUselessIsAWarning() throws {
        let vm = try TestVM()
        let bytes = try VCPUState.capture(from: vm.vcpus[0], msrs: []).state.encoded()
        // IA32_RTIT_CTL: the policy takes processor trace away.
        let state = try VCPUState(decoding: bytes + msrField(0x570, 1), version: 1)
        let other = try TestVM()
        let warnings = try state.restore(into: other.vcpus[0], clock: nil)
        #expect(warnings.map(\.code) == [.refusedMSR])
        #expect(
            warnings.first?.message == "IA32_RTIT_CTL (0x570) = 0x1 was refused, but the guest has no use of it")
    }

    @Test func names() {
        #expect(MSRNames.describe(0xDA0) == "IA32_XSS (0xda0)")
        #expect(MSRNames.describe(0xC2) == "IA32_PMC1 (0xc2)")
        #expect(MSRNames.describe(0xC001_0203) == "AMD_F15H_PERFCTR1 (0xc0010203)")
        #expect(MSRNames.describe(0x0BAD) == "MSR 0xbad")
    }

    /// Every MSR that this host's KVM lists has a name.
    @Test func thisHostsMSRsHaveNames() throws {
        let host = try HostCPU(of: KVMSystem())
        #expect(host.msrs.map(MSRNames.describe).filter { $0.hasPrefix("MSR ") } == [])
    }
}
