/// A policy for people.

extension CPUPolicy {
    /// Rows for `migratectl inspect`: the vendor, the features by name, sizes, each CPUID leaf and each MSR.
    public var stateDescription: StateDescription {
        var rows = StateDescription()
        rows.add("vendor", vendor)
        rows.add("features", CPUFeatures.names(in: cpuid).joined(separator: " "))
        let immunities = (0..<64).filter { archCapabilities & 1 << UInt64($0) != 0 }
        rows.add(
            "archCapabilities",
            immunities.isEmpty ? "none" : immunities.map(CPUFeatures.archCapabilityName).joined(separator: " "))
        rows.add("tsc", "\(tscKHz) kHz")
        rows.add("xsave.host", "\(xsaveByteCount) bytes")
        rows.add("xsave.guest", "\(guestXSaveByteCount) bytes")
        rows.add("address.physical", "\(physicalAddressBits) bits")
        rows.add("address.linear", "\(linearAddressBits) bits")
        for entry in cpuid.entries {
            let value = CPUIDRegister.allCases.map { "\($0.rawValue) \(StateDescription.hex(entry[$0]))" }
            rows.add("cpuid.\(entry.leafName)", value.joined(separator: " "))
        }
        for msr in msrs { rows.add("msr.\(StateDescription.hex(msr))", MSRNames.describe(msr)) }
        return rows
    }
}
