/// What the KVM of a host can give a guest's CPU.

import CKVM
import KVM

/// The side of the comparison that a policy is checked against. A plain value: tests make hosts that do not exist.
public struct HostCPU: Equatable, Sendable {
    /// Every feature that this host can give a guest.
    public var cpuid: CPUIDTable
    /// The MSRs that KVM here can save and restore.
    public var msrs: Set<UInt32>
    public var tscKHz: UInt32
    /// KVM can give a guest another TSC frequency than the host's.
    public var canScaleTSC: Bool
    /// The size of the XSAVE area that KVM here takes.
    public var xsaveByteCount: UInt32
    /// IA32_ARCH_CAPABILITIES as KVM gives it to guests here: what the CPU is immune against, a bit each.
    public var archCapabilities: UInt64

    public init(
        cpuid: CPUIDTable, msrs: Set<UInt32>, tscKHz: UInt32, canScaleTSC: Bool, xsaveByteCount: UInt32,
        archCapabilities: UInt64 = 0
    ) {
        self.cpuid = cpuid
        self.msrs = msrs
        self.tscKHz = tscKHz
        self.canScaleTSC = canScaleTSC
        self.xsaveByteCount = xsaveByteCount
        self.archCapabilities = archCapabilities
    }

    /// Asks KVM. Makes a VM with one vCPU for the moment, since some answers depend on one.
    public init(of system: KVMSystem) throws(StateError) {
        var table = try kvmCall("cannot read the CPUID that this host supports") { () throws(KVMError) in
            CPUIDTable(try system.supportedCPUID().map(CPUIDEntry.init(kernelValue:)))
        }
        // KVM emulates both, and older kernels leave them out of the list (seen on 6.1).
        let hasDeadlineTimer = try kvmCall("cannot ask for the TSC deadline timer") { () throws(KVMError) in
            try system.check(.tscDeadlineTimer) > 0
        }
        if hasDeadlineTimer { table.set(feature: "tsc-deadline") }
        table.set(feature: "hypervisor")
        cpuid = table
        msrs = try kvmCall("cannot list this host's MSRs") { () throws(KVMError) in Set(try system.saveableMSRs()) }
        canScaleTSC = try kvmCall("cannot ask for TSC scaling") { () throws(KVMError) in
            try system.check(.tscControl) > 0
        }
        let entries = table.entries.map(\.kernelValue)
        (tscKHz, xsaveByteCount, archCapabilities) = try kvmCall("cannot make a VM to ask it about its CPU") {
            () throws(KVMError) in
            let vm = try system.makeVM()
            let vcpu = try vm.makeVCPU(index: 0)
            let frequency = UInt32(clamping: try vcpu.tscFrequency())
            // KVM gives a guest the MSR only if its CPUID has the feature.
            try vcpu.setCPUID(entries)
            let capabilities = try vcpu.readMSRs([MSRNames.archCapabilities]).entries.first?.data ?? 0
            return (frequency, UInt32(clamping: vcpu.xsaveByteCount), capabilities)
        }
    }
}
