/// Whether a host can keep what a policy promised.

/// One reason why a VM cannot run on a host.
public struct CPUMismatch: Hashable, Sendable {
    /// The feature's name ("avx512f"), the MSR's ("IA32_XSS (0xda0)"), or the quantity's ("xsave size").
    public var name: String
    /// The numbers where there are some ("2696 > 832"); empty for a feature.
    public var detail: String

    public init(name: String, detail: String = "") {
        self.name = name
        self.detail = detail
    }
}

extension CPUMismatch: CustomStringConvertible {
    /// "avx512f"; "xsave size 2696 > 832".
    public var description: String { detail.isEmpty ? name : "\(name) \(detail)" }
}

extension CPUPolicy {
    /// Every reason why a VM of this policy cannot run on this host; none when it can. A host may offer more than the
    /// policy asks for: the guest does not see it.
    public func check(on host: HostCPU) -> [CPUMismatch] {
        var found: [CPUMismatch] = []
        if vendor != host.cpuid.vendor {
            // The vendors' CPUs differ in what no feature bit tells (SYSENTER in long mode, error codes, MSRs).
            found.append(CPUMismatch(name: "cpu vendor", detail: "\(vendor), here \(host.cpuid.vendor)"))
        }
        found += missingFeatures(on: host)
        found += missingImmunities(on: host)
        found += sizes(on: host)
        found += stateLayout(on: host)
        found += missingMSRs(on: host)
        if !host.canScaleTSC, !Self.isSameFrequency(tscKHz, host.tscKHz) {
            found.append(
                CPUMismatch(
                    name: "tsc frequency", detail: "\(tscKHz) kHz, here \(host.tscKHz) kHz and not to be scaled"))
        }
        return found
    }

    private func missingFeatures(on host: HostCPU) -> [CPUMismatch] {
        var seen: Set<String> = []
        var found: [CPUMismatch] = []
        for word in CPUFeatures.words {
            let wanted = cpuid.value(word.leaf, word.subleaf, word.register)
            let missing = wanted & ~host.cpuid.value(word.leaf, word.subleaf, word.register) & ~word.ignored
            for bit in 0..<32 where missing & 1 << UInt32(bit) != 0 && seen.insert(word.name(bit)).inserted {
                found.append(CPUMismatch(name: word.name(bit)))
            }
        }
        return found
    }

    /// A guest that was told that its CPU has no Meltdown runs without its remedy against it: it must not come to a CPU
    /// that has it. KVM refuses such a value too, but only when the pages have moved.
    private func missingImmunities(on host: HostCPU) -> [CPUMismatch] {
        let missing = archCapabilities & ~host.archCapabilities
        return (0..<64).filter { missing & 1 << UInt64($0) != 0 }
            .map { CPUMismatch(name: CPUFeatures.archCapabilityName($0)) }
    }

    private func sizes(on host: HostCPU) -> [CPUMismatch] {
        var found: [CPUMismatch] = []
        func mustNotExceed(_ name: String, _ wanted: UInt32, _ offered: UInt32) {
            if wanted > offered { found.append(CPUMismatch(name: name, detail: "\(wanted) > \(offered)")) }
        }
        mustNotExceed("xsave size", guestXSaveByteCount, host.cpuid.value(0xD, 0, .ecx))
        let hostAddress = host.cpuid.value(0x8000_0008, 0, .eax)
        mustNotExceed("physical address bits", physicalAddressBits, hostAddress & 0xFF)
        mustNotExceed("linear address bits", linearAddressBits, hostAddress >> 8 & 0xFF)
        return found
    }

    /// Where the parts of the XSAVE area lie is the CPU's own business. State in the standard format can only be read
    /// by a CPU with the same layout.
    private func stateLayout(on host: HostCPU) -> [CPUMismatch] {
        var found: [CPUMismatch] = []
        let components = UInt64(cpuid.value(0xD, 0, .edx)) << 32 | UInt64(cpuid.value(0xD, 0, .eax))
        // Components 0 and 1 (x87 and SSE) are the legacy area, the same everywhere.
        for number in 2..<64 where components & 1 << UInt64(number) != 0 {
            guard let mine = cpuid[0xD, UInt32(number)], let theirs = host.cpuid[0xD, UInt32(number)] else { continue }
            let name = CPUFeatures.stateComponentName(number)
            if (mine.eax, mine.ebx) != (theirs.eax, theirs.ebx) {
                found.append(
                    CPUMismatch(
                        name: "\(name) layout",
                        detail: "\(mine.eax) bytes at \(mine.ebx), here \(theirs.eax) bytes at \(theirs.ebx)"))
            }
        }
        return found
    }

    /// MSRs that the guest can use and that KVM here cannot restore. Those behind a feature that the guest does not
    /// have hold nothing of it.
    private func missingMSRs(on host: HostCPU) -> [CPUMismatch] {
        msrs.filter { !host.msrs.contains($0) && MSRNames.isUsable($0, by: cpuid) }
            .map { CPUMismatch(name: MSRNames.describe($0)) }
    }
}
