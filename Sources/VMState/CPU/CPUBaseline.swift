/// What CPUs have in common, so that a VM made for it runs on each of them.

/// The features of one host's CPU as a VM gets them, or those that several hosts share. `migratectl doctor --json` shows
/// its host's, `doctor --baseline` computes the shared one, `run --cpu FILE` takes either.
public struct CPUBaseline: Codable, Hashable, Sendable {
    /// "AuthenticAMD".
    public var vendor: String
    /// Names as in /proc/cpuinfo; a bit without a name is told by its place.
    public var features: [String]
    /// What the CPU is immune against: the names of IA32_ARCH_CAPABILITIES' bits.
    public var immunities: [String]
    public var physicalAddressBits: UInt32
    public var linearAddressBits: UInt32
    public var tscKHz: UInt32
    /// Whether the host can give a guest another TSC frequency than its own; of several hosts: whether all can.
    public var canScaleTSC: Bool
    /// The MSRs that KVM can save.
    public var msrs: [UInt32]

    /// What a new VM would get on this host.
    public init(_ host: HostCPU) {
        let policy = CPUPolicy(host: host, vcpuCount: 1)
        vendor = policy.vendor
        features = CPUFeatures.names(in: policy.cpuid)
        immunities = (0..<64).filter { policy.archCapabilities & 1 << UInt64($0) != 0 }
            .map(CPUFeatures.archCapabilityName)
        physicalAddressBits = policy.physicalAddressBits
        linearAddressBits = policy.linearAddressBits
        tscKHz = policy.tscKHz
        canScaleTSC = host.canScaleTSC
        msrs = policy.msrs
    }

    /// What a VM may have that is to run on both.
    /// - Throws: `StateError` (`incompatibleHost`) where no VM can move between the two: CPUs of different vendors, or TSC
    ///   frequencies that differ where a host cannot scale its own.
    public func common(with other: CPUBaseline) throws(StateError) -> CPUBaseline {
        guard vendor == other.vendor else {
            throw StateError(
                .incompatibleHost,
                "no VM can move between CPUs of \(vendor) and of \(other.vendor): they have no common model")
        }
        guard (canScaleTSC && other.canScaleTSC) || CPUPolicy.isSameFrequency(tscKHz, other.tscKHz) else {
            throw StateError(
                .incompatibleHost,
                "no VM can move both ways between TSCs of \(tscKHz) and \(other.tscKHz) kHz where a host cannot scale its own"
            )
        }
        var common = self
        let (theirs, theirImmunities, theirMSRs) = (Set(other.features), Set(other.immunities), Set(other.msrs))
        common.features.removeAll { !theirs.contains($0) }
        common.immunities.removeAll { !theirImmunities.contains($0) }
        common.msrs.removeAll { !theirMSRs.contains($0) }
        common.physicalAddressBits = min(physicalAddressBits, other.physicalAddressBits)
        common.linearAddressBits = min(linearAddressBits, other.linearAddressBits)
        common.canScaleTSC = canScaleTSC && other.canScaleTSC
        return common
    }
}
