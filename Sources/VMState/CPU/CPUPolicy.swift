/// What a VM's CPUs were promised when it was made, and what a destination must therefore be able to keep.

import CKVM
import KVM

/// The CPUID table that the guest sees, the MSRs that make up its state, its TSC frequency and the size of its XSAVE
/// area. It travels in front of everything else, so that a destination can refuse before any page moves.
public struct CPUPolicy: Hashable, Sendable {
    /// The table of vCPU 0; `cpuid(forVCPU:)` has the others'.
    public var cpuid: CPUIDTable
    /// The MSRs that the VM's first host could save, in ascending order.
    public var msrs: [UInt32]
    public var tscKHz: UInt32
    /// The size of the XSAVE area that the VM's first host asked for.
    public var xsaveByteCount: UInt32
    /// IA32_ARCH_CAPABILITIES as the guest reads it; 0 when its CPUID has no such MSR.
    public var archCapabilities: UInt64

    public init(
        cpuid: CPUIDTable, msrs: [UInt32], tscKHz: UInt32, xsaveByteCount: UInt32, archCapabilities: UInt64 = 0
    ) {
        self.cpuid = cpuid
        self.msrs = Set(msrs).sorted()
        self.tscKHz = tscKHz
        self.xsaveByteCount = xsaveByteCount
        self.archCapabilities = archCapabilities
    }

    /// For a new VM: everything that this host offers and that can be moved.
    public init(host: HostCPU, vcpuCount: Int) {
        var table = host.cpuid
        // A guest that runs guests of its own has state that is not carried (KVM_GET_NESTED_STATE).
        table.clear(feature: "vmx")
        table.clear(feature: "svm")
        table.remove(0x8000_000A)
        // Performance counters count what their host does; no two kinds of CPU count the same, and their MSRs are the
        // ones that most often fail on another host.
        table.remove(0xA)
        table.clear(feature: "perfctr-core")
        table.clear(feature: "pdcm")
        table.clear(feature: "ds")
        table.clear(feature: "dtes64")
        table.remove(0x8000_0022)
        // Processor trace writes into memory behind the dirty log's back on some hosts.
        table.clear(feature: "intel-pt")
        table.remove(0x14)
        // Mirrors of control registers, which KVM keeps up to date itself.
        table.clear(feature: "osxsave")
        table.clear(feature: "ospke")
        table.describeTopology(vcpuCount: vcpuCount)
        self.init(
            cpuid: table, msrs: host.msrs.sorted(), tscKHz: host.tscKHz, xsaveByteCount: host.xsaveByteCount,
            archCapabilities: table.contains(feature: "arch-capabilities") ? host.archCapabilities : 0)
    }

    /// The table of one vCPU: it differs from the others' in its APIC id.
    public func cpuid(forVCPU index: Int) -> CPUIDTable {
        var table = cpuid
        table.setAPICID(UInt32(truncatingIfNeeded: index))
        return table
    }

    /// Makes a new vCPU one of this policy. Before anything else is done with it: KVM checks all other state against
    /// its CPUID, and from the first entry into the guest on refuses to change it.
    public func apply(to vcpu: VCPU) throws(StateError) {
        try kvmCall("cannot give vcpu \(vcpu.index) its CPUID") { () throws(KVMError) in
            try vcpu.setCPUID(cpuid(forVCPU: vcpu.index).entries.map(\.kernelValue))
        }
        // A frequency within what NTP does to two equal hosts is left alone: KVM refuses even that without TSC scaling.
        let current = try kvmCall("cannot read the TSC frequency of vcpu \(vcpu.index)") { () throws(KVMError) in
            UInt32(clamping: try vcpu.tscFrequency())
        }
        if !Self.isSameFrequency(current, tscKHz) {
            try kvmCall("cannot give vcpu \(vcpu.index) a TSC of \(tscKHz) kHz, its host's is \(current) kHz") {
                () throws(KVMError) in
                try vcpu.setTSCFrequency(kiloHertz: Int(tscKHz))
            }
        }
    }

    /// KVM's own tolerance (its parameter tsc_tolerance_ppm): 250 parts in a million.
    static func isSameFrequency(_ a: UInt32, _ b: UInt32) -> Bool {
        let difference = a > b ? a - b : b - a
        return UInt64(difference) * 1_000_000 <= UInt64(max(a, b)) * 250
    }

    /// "GenuineIntel".
    var vendor: String { cpuid.vendor }
    /// Bits of a physical address.
    var physicalAddressBits: UInt32 { cpuid.value(0x8000_0008, 0, .eax) & 0xFF }
    var linearAddressBits: UInt32 { cpuid.value(0x8000_0008, 0, .eax) >> 8 & 0xFF }
    /// The largest XSAVE area that the guest can use: CPUID 0xD.0 ECX.
    var guestXSaveByteCount: UInt32 { cpuid.value(0xD, 0, .ecx) }
}

extension CPUIDTable {
    /// The vendor's name: EBX, EDX and ECX of leaf 0 are twelve letters.
    var vendor: String {
        let letters = [value(0, 0, .ebx), value(0, 0, .edx), value(0, 0, .ecx)].flatMap { register in
            (0..<4).map { UInt8(truncatingIfNeeded: register >> UInt32($0 * 8)) }
        }
        return String(decoding: letters.map { (0x20..<0x7F).contains($0) ? $0 : UInt8(ascii: "?") }, as: UTF8.self)
    }

    /// One package of `vcpuCount` cores with one thread each. The host's own topology, which KVM copies into its list,
    /// would tell the guest of CPUs that it does not have.
    fileprivate mutating func describeTopology(vcpuCount: Int) {
        let count = UInt32(clamping: max(vcpuCount, 1))
        let isAMD = ["AuthenticAMD", "HygonGenuine"].contains(vendor)
        // The smallest width of an APIC id that has room for every vCPU.
        var idBits: UInt32 = 0
        while idBits < 31, 1 << idBits < count { idBits += 1 }
        edit(0x1) { entry in
            entry.ebx = entry.ebx & 0x0000_FFFF | min(count, 255) << 16
            entry.edx = entry.edx & ~(1 << 28) | (count > 1 ? 1 << 28 : 0)
        }
        // Intel: cores in the package, and threads that share each cache.
        edit(0x4) { entry in
            guard entry.eax & 0x1F != 0 else { return }
            let level = entry.eax >> 5 & 0x7
            let sharing = level >= 3 ? min(count, 4096) - 1 : 0
            entry.eax = entry.eax & 0x3FFF | sharing << 14 | min(count - 1, 63) << 26
        }
        // AMD: the same in its leaves.
        if isAMD {
            edit(0x8000_0001) { $0.ecx = $0.ecx & ~(1 << 1) | (count > 1 ? 1 << 1 : 0) }
            edit(0x8000_0008) { $0.ecx = $0.ecx & 0xFFFF_0F00 | min(count - 1, 255) | idBits << 12 }
        }
        edit(0x8000_001D) { entry in
            guard entry.eax & 0x1F != 0 else { return }
            let level = entry.eax >> 5 & 0x7
            entry.eax = entry.eax & 0x3FFF | (level >= 3 ? min(count, 4096) - 1 : 0) << 14
        }
        edit(0x8000_001E) { ($0.ebx, $0.ecx) = (0, 0) }
        // Threads, then cores, then nothing more.
        for leaf in [0xB, 0x1F] as [UInt32] where self[leaf] != nil {
            replace(with: [
                CPUIDEntry(leaf: leaf, subleaf: 0, hasSubleaves: true, eax: 0, ebx: 1, ecx: 0x100, edx: 0),
                CPUIDEntry(leaf: leaf, subleaf: 1, hasSubleaves: true, eax: idBits, ebx: count, ecx: 0x201, edx: 0),
                CPUIDEntry(leaf: leaf, subleaf: 2, hasSubleaves: true, eax: 0, ebx: 0, ecx: 2, edx: 0),
            ])
        }
        // AMD's newer form of the same; a guest that lacks it reads leaf 0xB.
        remove(0x8000_0026)
        setAPICID(0)
    }

    fileprivate mutating func setAPICID(_ id: UInt32) {
        edit(0x1) { $0.ebx = $0.ebx & 0x00FF_FFFF | (id & 0xFF) << 24 }
        edit(0xB) { $0.edx = id }
        edit(0x1F) { $0.edx = id }
        edit(0x8000_001E) { ($0.eax, $0.ebx) = (id, $0.ebx & 0xFFFF_FF00 | id & 0xFF) }
    }
}
