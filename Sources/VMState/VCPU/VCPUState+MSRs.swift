/// Model-specific registers. The rule for those that fail is in docs/state.md, "MSRs".

import CKVM
import KVM
import StateSchema

/// KVM takes fewer than 256 in one call.
private let msrsPerCall = 128
private let maximumMSRCount = 4096

extension VCPUState {
    /// Reads every MSR of the list. KVM stops at one that it cannot read: that one is named in the state and in a
    /// warning, and reading goes on behind it.
    static func captureMSRs(
        _ indices: [UInt32], from vcpu: VCPU, into wire: inout WireVCPU
    ) throws(StateError) -> [StateWarning] {
        var rest = indices[...]
        while !rest.isEmpty {
            let batch = try kvmCall("cannot take the MSRs of vcpu \(vcpu.index)") { () throws(KVMError) in
                try vcpu.readMSRs(Array(rest.prefix(msrsPerCall)))
            }
            for entry in batch.entries {
                var msr = WireMSR()
                (msr.index, msr.value) = (entry.index, entry.data)
                wire.msrs.append(msr)
            }
            rest = rest.dropFirst(batch.entries.count)
            if let refused = batch.stoppedAt {
                wire.unreadableMsrs.append(refused)
                rest = rest.dropFirst()
            }
        }
        return wire.unreadableMsrs.map { index in
            StateWarning(
                .unreadableMSR, "vcpu \(vcpu.index)",
                "KVM lists \(MSRNames.describe(index)) as saveable but does not read it; it is not carried")
        }
    }

    /// Writes every MSR but the TSC, which `restoreTSC` sets: KVM takes a write near the expected value for an attempt
    /// to synchronise vCPUs, and ignores it. The LAPIC must have been restored.
    func restoreMSRs(into vcpu: VCPU) throws(StateError) -> [StateWarning] {
        var warnings: [StateWarning] = []
        var refused: [kvm_msr_entry] = []
        let entries = wire.msrs.filter { $0.index != MSRNames.tsc }
            .map { kvm_msr_entry(index: $0.index, reserved: 0, data: $0.value) }
        // The deadline last: it arms the timer, and everything that the timer depends on (the TSC's adjustment) is
        // among the others.
        let ordered =
            entries.filter { $0.index != MSRNames.tscDeadline } + entries.filter { $0.index == MSRNames.tscDeadline }
        var rest = ordered[...]
        while !rest.isEmpty {
            let part = Array(rest.prefix(msrsPerCall))
            let batch = try kvmCall("cannot restore the MSRs of vcpu \(vcpu.index)") { () throws(KVMError) in
                try vcpu.writeMSRs(part)
            }
            let written = batch.entries.count
            rest = rest.dropFirst(written)
            if batch.stoppedAt != nil, written < part.count {
                refused.append(part[written])
                rest = rest.dropFirst()
            }
        }
        if !refused.isEmpty { warnings += try judge(refused, vcpu) }
        return warnings
    }

    /// A refused MSR is harmless if it holds the value already, or if the guest's CPUID gives it no use of the MSR.
    /// Any other is guest state that would be lost: the restore fails and names all of them.
    private func judge(_ refused: [kvm_msr_entry], _ vcpu: VCPU) throws(StateError) -> [StateWarning] {
        let table = try kvmCall("cannot read the CPUID of vcpu \(vcpu.index)") { () throws(KVMError) in
            CPUIDTable(try vcpu.cpuid().map(CPUIDEntry.init(kernelValue:)))
        }
        var warnings: [StateWarning] = []
        var lost: [String] = []
        for entry in refused {
            let name = "\(MSRNames.describe(entry.index)) = \(StateDescription.hex(entry.data))"
            let here = try kvmCall("cannot read \(name) of vcpu \(vcpu.index)") { () throws(KVMError) in
                try vcpu.readMSRs([entry.index]).entries.first?.data
            }
            if here == entry.data {
                warnings.append(refusal(vcpu, "\(name) was refused, but has that value already"))
            } else if !MSRNames.isUsable(entry.index, by: table) {
                warnings.append(refusal(vcpu, "\(name) was refused, but the guest has no use of it"))
            } else {
                lost.append(name)
            }
        }
        guard lost.isEmpty else {
            throw StateError(
                .incompatibleHost, "vcpu \(vcpu.index): KVM on this host refuses \(lost.joined(separator: ", "))")
        }
        return warnings
    }

    private func refusal(_ vcpu: VCPU, _ message: String) -> StateWarning {
        StateWarning(.refusedMSR, "vcpu \(vcpu.index)", message)
    }

    /// An MSR's saved value; nil when it is not in the state.
    public func msr(_ index: UInt32) -> UInt64? { wire.msrs.first { $0.index == index }?.value }
}

extension WireVCPU {
    func checkMSRs(_ checker: WireChecker) throws(StateError) {
        try checker.count(msrs.count, atMost: maximumMSRCount, "msrs")
        try checker.count(unreadableMsrs.count, atMost: maximumMSRCount, "unreadable msrs")
        // Twice the same would be written twice, and only one of the values can be the saved one.
        var seen: Set<UInt32> = []
        for msr in msrs {
            try checker.require(
                seen.insert(msr.index).inserted, "list of msrs", "\(MSRNames.describe(msr.index)) twice")
        }
    }
}
