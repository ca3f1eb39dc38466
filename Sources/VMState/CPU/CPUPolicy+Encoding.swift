/// A policy as bytes: `MachineConfiguration.cpuPolicy`. Not protobuf, so that equal policies are equal bytes, and the
/// little that is read before anything is trusted is read by a page of code. Little-endian; docs/state.md has the table.

import Units

extension CPUPolicy {
    /// The version that is written. Older ones will be read for good; newer ones are refused.
    public static let version: UInt16 = 1

    /// Longer encodings are refused unread.
    public static let maximumByteCount = 64 << 10
    static let maximumEntryCount = 1024
    static let maximumMSRCount = 4096

    private static let hasSubleavesFlag: UInt32 = 1

    /// The policy's bytes.
    public func encoded() -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(28 + cpuid.entries.count * 28 + msrs.count * 4)
        bytes.append(littleEndian: Self.version)
        bytes.append(littleEndian: 0 as UInt16)
        bytes.append(littleEndian: tscKHz)
        bytes.append(littleEndian: xsaveByteCount)
        bytes.append(littleEndian: archCapabilities)
        bytes.append(littleEndian: UInt32(cpuid.entries.count))
        bytes.append(littleEndian: UInt32(msrs.count))
        for entry in cpuid.entries {
            bytes.append(littleEndian: entry.leaf)
            bytes.append(littleEndian: entry.subleaf)
            bytes.append(littleEndian: entry.hasSubleaves ? Self.hasSubleavesFlag : 0)
            for register in CPUIDRegister.allCases { bytes.append(littleEndian: entry[register]) }
        }
        for msr in msrs { bytes.append(littleEndian: msr) }
        return bytes
    }

    /// Reads a policy. There is one encoding for each policy: anything else is refused.
    public init(decoding bytes: [UInt8]) throws(StateError) {
        guard bytes.count <= Self.maximumByteCount else {
            throw StateError(
                .malformed, "CPU policy is \(bytes.count) bytes long, more than the \(Self.maximumByteCount) allowed")
        }
        var reader = LittleEndianReader(bytes, of: "CPU policy")
        let version: UInt16 = try reader.next()
        guard version == Self.version else {
            guard version > Self.version else {
                throw StateError(.malformed, "CPU policy has version \(version), which never was")
            }
            throw StateError(
                .unsupportedVersion,
                "CPU policy has version \(version); this migratectl reads up to version \(Self.version)")
        }
        let reserved: UInt16 = try reader.next()
        guard reserved == 0 else { throw StateError(.malformed, "CPU policy has unknown flags \(reserved)") }
        tscKHz = try reader.next()
        xsaveByteCount = try reader.next()
        archCapabilities = try reader.next()
        guard tscKHz > 0 else { throw StateError(.invalidValue, "CPU policy has a TSC frequency of 0 kHz") }
        let entryCount = try reader.count(atMost: Self.maximumEntryCount, "CPUID entries")
        let msrCount = try reader.count(atMost: Self.maximumMSRCount, "MSRs")

        var entries: [CPUIDEntry] = []
        for _ in 0..<entryCount {
            var entry = CPUIDEntry(leaf: try reader.next(), subleaf: try reader.next())
            let flags: UInt32 = try reader.next()
            guard flags & ~Self.hasSubleavesFlag == 0, flags != 0 || entry.subleaf == 0 else {
                throw StateError(.malformed, "CPU policy has unknown flags \(flags) at CPUID leaf \(entry.leafName)")
            }
            entry.hasSubleaves = flags != 0
            for register in CPUIDRegister.allCases { entry[register] = try reader.next() }
            if let last = entries.last, !CPUIDEntry.isOrdered(last, entry) {
                throw StateError(.malformed, "CPU policy has CPUID leaf \(entry.leafName) twice or out of order")
            }
            entries.append(entry)
        }
        cpuid = CPUIDTable(entries)

        msrs = []
        for _ in 0..<msrCount {
            let msr: UInt32 = try reader.next()
            if let last = msrs.last, last >= msr {
                throw StateError(.malformed, "CPU policy has \(MSRNames.describe(msr)) twice or out of order")
            }
            msrs.append(msr)
        }
        try reader.finish()
    }
}

extension [UInt8] {
    mutating func append(littleEndian value: some FixedWidthInteger & UnsignedInteger) {
        for shift in stride(from: 0, to: value.bitWidth, by: 8) { append(UInt8(truncatingIfNeeded: value >> shift)) }
    }
}

/// Reads numbers one after the other and never past the end.
struct LittleEndianReader {
    private let bytes: [UInt8]
    private var position = 0
    private let subject: String

    init(_ bytes: [UInt8], of subject: String) {
        self.bytes = bytes
        self.subject = subject
    }

    mutating func next<Number: FixedWidthInteger & UnsignedInteger>() throws(StateError) -> Number {
        let size = Number.bitWidth / 8
        guard bytes.count - position >= size else {
            throw StateError(.malformed, "\(subject) is cut off after \(bytes.count) bytes")
        }
        var value: Number = 0
        for offset in 0..<size { value |= Number(bytes[position + offset]) << Number(offset * 8) }
        position += size
        return value
    }

    mutating func count(atMost limit: Int, _ things: String) throws(StateError) -> Int {
        let value: UInt32 = try next()
        guard value <= limit else {
            throw StateError(.malformed, "\(subject) has \(value) \(things), more than the \(limit) allowed")
        }
        return Int(value)
    }

    func finish() throws(StateError) {
        guard position == bytes.count else {
            throw StateError(.malformed, "\(subject) has \(bytes.count - position) bytes too many at its end")
        }
    }
}
