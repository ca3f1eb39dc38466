/// A host cut down to a CPU model.

extension HostCPU {
    /// This host, as if it had only what `model` names.
    /// - Throws: `StateError` (`incompatibleHost`) that lists the features of the model which this host lacks.
    public func limited(to model: CPUModel) throws(StateError) -> HostCPU {
        let offered = Set(CPUFeatures.names(in: cpuid))
        let missing = model.requiredFeatures.filter { !Self.isSatisfied($0, by: offered) }.sorted()
        guard missing.isEmpty else {
            throw StateError(
                .incompatibleHost, "this host's CPU is no \(model): it lacks \(missing.joined(separator: ", "))")
        }
        var host = self
        let allowed = model.baseFeatures.map { $0.union(model.added).subtracting(model.removed) }
        for word in CPUFeatures.words {
            let has = cpuid.value(word.leaf, word.subleaf, word.register)
            var keeps: UInt32 = 0
            for bit in 0..<32 {
                let name = word.name(bit)
                if allowed?.contains(name) ?? !model.removed.contains(name) { keeps |= 1 << UInt32(bit) }
            }
            host.cpuid.keep(has & (keeps | word.ignored), in: word)
        }
        if model != .host { host.cpuid.describeStateComponents() }
        switch model.base {
        case .host: break
        case .level:
            // What every CPU of the last ten years has; and enough for the largest machine.
            host.narrow(physicalAddressBits: 40, linearAddressBits: 48)
            host.archCapabilities = 0
            host.cpuid.clear(feature: "arch-capabilities")
        case .baseline(let baseline):
            host.narrow(
                physicalAddressBits: baseline.physicalAddressBits, linearAddressBits: baseline.linearAddressBits)
            let names = Set(baseline.immunities)
            for bit in 0..<64 where !names.contains(CPUFeatures.archCapabilityName(bit)) {
                host.archCapabilities &= ~(1 << UInt64(bit))
            }
            host.msrs.formIntersection(baseline.msrs)
        }
        return host
    }

    /// The XSAVE components of x87 and SSE are named only where there is XSAVE, and older CPUs do not name these: every
    /// 64-bit CPU has what they stand for.
    private static func isSatisfied(_ name: String, by offered: Set<String>) -> Bool {
        ["xsave-x87", "xsave-sse"].contains(name) || offered.contains(name)
    }

    private mutating func narrow(physicalAddressBits: UInt32, linearAddressBits: UInt32) {
        cpuid.edit(0x8000_0008) { entry in
            let physical = min(entry.eax & 0xFF, physicalAddressBits)
            let linear = min(entry.eax >> 8 & 0xFF, linearAddressBits)
            entry.eax = entry.eax & 0xFFFF_0000 | linear << 8 | physical
        }
    }
}

extension CPUIDTable {
    fileprivate mutating func keep(_ value: UInt32, in word: CPUFeatures.Word) {
        edit(word.leaf) { entry in
            if entry.subleaf == word.subleaf || !entry.hasSubleaves { entry[word.register] = value }
        }
    }

    /// Makes leaf 0xD agree with the state components that are left in it: their leaves, and the size of their area
    /// (Intel SDM volume 1, section 13.2).
    fileprivate mutating func describeStateComponents() {
        guard self[0xD, 0] != nil else { return }
        let components =
            UInt64(value(0xD, 0, .edx)) << 32 | UInt64(value(0xD, 0, .eax))
            | UInt64(value(0xD, 1, .edx)) << 32 | UInt64(value(0xD, 1, .ecx))
        let user = UInt64(value(0xD, 0, .edx)) << 32 | UInt64(value(0xD, 0, .eax))
        guard contains(feature: "xsave") else { return remove(0xD) }
        // The legacy area and the header.
        var size: UInt32 = 512 + 64
        var kept: [CPUIDEntry] = []
        for entry in entries where entry.leaf == 0xD {
            guard entry.subleaf >= 2 else {
                kept.append(entry)
                continue
            }
            guard entry.subleaf < 64, components & 1 << UInt64(entry.subleaf) != 0 else { continue }
            kept.append(entry)
            if user & 1 << UInt64(entry.subleaf) != 0 { size = max(size, entry.eax &+ entry.ebx) }
        }
        for index in kept.indices where kept[index].subleaf == 0 { (kept[index].ebx, kept[index].ecx) = (size, size) }
        replace(with: kept)
    }
}
