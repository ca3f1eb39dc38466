/// One row of a CPUID table, and the place of a bit in it.

import CKVM

/// What a guest's CPUID instruction returns for one leaf (and subleaf, where the leaf has several).
public struct CPUIDEntry: Hashable, Sendable {
    public var leaf: UInt32
    public var subleaf: UInt32
    /// The subleaf counts; otherwise the entry answers for every subleaf.
    public var hasSubleaves: Bool
    public var eax: UInt32
    public var ebx: UInt32
    public var ecx: UInt32
    public var edx: UInt32

    public init(
        leaf: UInt32, subleaf: UInt32 = 0, hasSubleaves: Bool = false, eax: UInt32 = 0, ebx: UInt32 = 0,
        ecx: UInt32 = 0, edx: UInt32 = 0
    ) {
        self.leaf = leaf
        self.subleaf = subleaf
        self.hasSubleaves = hasSubleaves
        self.eax = eax
        self.ebx = ebx
        self.ecx = ecx
        self.edx = edx
    }

    public subscript(register: CPUIDRegister) -> UInt32 {
        get {
            switch register {
            case .eax: eax
            case .ebx: ebx
            case .ecx: ecx
            case .edx: edx
            }
        }
        set {
            switch register {
            case .eax: eax = newValue
            case .ebx: ebx = newValue
            case .ecx: ecx = newValue
            case .edx: edx = newValue
            }
        }
    }
}

extension CPUIDEntry {
    init(kernelValue entry: kvm_cpuid_entry2) {
        let hasSubleaves = entry.flags & UInt32(KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0
        self.init(
            leaf: entry.function, subleaf: hasSubleaves ? entry.index : 0, hasSubleaves: hasSubleaves,
            eax: entry.eax, ebx: entry.ebx, ecx: entry.ecx, edx: entry.edx)
    }

    var kernelValue: kvm_cpuid_entry2 {
        var entry = kvm_cpuid_entry2()
        entry.function = leaf
        entry.index = subleaf
        entry.flags = hasSubleaves ? UInt32(KVM_CPUID_FLAG_SIGNIFCANT_INDEX) : 0
        entry.eax = eax
        entry.ebx = ebx
        entry.ecx = ecx
        entry.edx = edx
        return entry
    }

    /// "7.1" or "80000001", as messages name a leaf.
    var leafName: String { String(leaf, radix: 16) + (hasSubleaves ? ".\(subleaf)" : "") }

    /// The order of a table: by leaf, then subleaf.
    static func isOrdered(_ a: CPUIDEntry, _ b: CPUIDEntry) -> Bool { (a.leaf, a.subleaf) < (b.leaf, b.subleaf) }
}

/// One of the four registers that CPUID fills.
public enum CPUIDRegister: String, CaseIterable, Sendable {
    case eax, ebx, ecx, edx
}

/// The place of one bit in a CPUID table.
public struct CPUIDBit: Hashable, Sendable {
    public var leaf: UInt32
    public var subleaf: UInt32
    public var register: CPUIDRegister
    /// 0 to 31.
    public var bit: Int

    public init(leaf: UInt32, subleaf: UInt32 = 0, register: CPUIDRegister, bit: Int) {
        self.leaf = leaf
        self.subleaf = subleaf
        self.register = register
        self.bit = bit
    }

    var mask: UInt32 { 1 << UInt32(bit) }
}

extension CPUIDBit: CustomStringConvertible {
    /// "cpuid 7.0:ebx[16]".
    public var description: String { "cpuid \(String(leaf, radix: 16)).\(subleaf):\(register.rawValue)[\(bit)]" }
}

/// A CPUID table with look-up by leaf.
public struct CPUIDTable: Hashable, Sendable {
    /// Ordered by leaf and subleaf; no two entries have the same.
    public private(set) var entries: [CPUIDEntry]

    /// Sorts the entries; of two for the same leaf and subleaf the first one stays.
    public init(_ entries: [CPUIDEntry]) {
        // Swift's sort keeps equal elements in order only by chance, hence the position as the last key.
        let sorted = entries.enumerated().sorted {
            ($0.element.leaf, $0.element.subleaf, $0.offset) < ($1.element.leaf, $1.element.subleaf, $1.offset)
        }
        self.entries = []
        for (_, entry) in sorted {
            if let last = self.entries.last, last.leaf == entry.leaf, last.subleaf == entry.subleaf { continue }
            self.entries.append(entry)
        }
    }

    public subscript(leaf: UInt32, subleaf: UInt32 = 0) -> CPUIDEntry? {
        entries.first { $0.leaf == leaf && ($0.subleaf == subleaf || !$0.hasSubleaves) }
    }

    /// The register's value, 0 where the table has no such leaf, as a guest would see.
    func value(_ leaf: UInt32, _ subleaf: UInt32 = 0, _ register: CPUIDRegister) -> UInt32 {
        self[leaf, subleaf]?[register] ?? 0
    }

    func contains(_ bit: CPUIDBit) -> Bool { value(bit.leaf, bit.subleaf, bit.register) & bit.mask != 0 }

    /// Whether the table offers a feature of `CPUFeatures`, by its name.
    public func contains(feature name: String) -> Bool { CPUFeatures.places(of: name).contains(where: contains) }

    /// Changes every entry of a leaf.
    mutating func edit(_ leaf: UInt32, _ change: (inout CPUIDEntry) -> Void) {
        for position in entries.indices where entries[position].leaf == leaf { change(&entries[position]) }
    }

    /// Takes a leaf and all its subleaves out.
    mutating func remove(_ leaf: UInt32) { entries.removeAll { $0.leaf == leaf } }

    /// Puts these entries in the place of all entries of their leaves.
    mutating func replace(with new: [CPUIDEntry]) {
        let leaves = Set(new.map(\.leaf))
        self = CPUIDTable(entries.filter { !leaves.contains($0.leaf) } + new)
    }

    /// Clears a feature wherever the table has it.
    mutating func clear(feature name: String) {
        for place in CPUFeatures.places(of: name) {
            for position in entries.indices
            where entries[position].leaf == place.leaf && entries[position].subleaf == place.subleaf {
                entries[position][place.register] &= ~place.mask
            }
        }
    }

    /// Sets a feature in each leaf that the table has.
    mutating func set(feature name: String) {
        for place in CPUFeatures.places(of: name) {
            for position in entries.indices
            where entries[position].leaf == place.leaf && entries[position].subleaf == place.subleaf {
                entries[position][place.register] |= place.mask
            }
        }
    }
}
