/// The frame of ACPI's tables: header, checksum, and the pointers to them (ACPI 6.4, sections 5.2.5 to 5.2.8).

/// A system description table.
package struct ACPITable: Equatable, Sendable {
    package let bytes: [UInt8]

    private static let headerByteCount = 36

    package init(signature: String, revision: UInt8, body: [UInt8]) {
        var bytes = Array(signature.utf8)
        precondition(bytes.count == 4)
        bytes.append(UInt32(Self.headerByteCount + body.count))
        bytes += [revision, 0]
        bytes += Array("MIGRCT".utf8)
        bytes += Array("MIGRATEC".utf8)
        bytes.append(UInt32(1))
        bytes += Array("MIGR".utf8)
        bytes.append(UInt32(1))
        bytes += body
        bytes[9] = Self.checksum(bytes)
        self.bytes = bytes
    }

    /// The byte that makes the sum of all bytes zero.
    static func checksum(_ bytes: some Sequence<UInt8>) -> UInt8 { 0 &- bytes.reduce(0, &+) }

    /// RSDP, version 2: where a kernel begins to look. `xsdt` is the address of the list of tables.
    package static func rootPointer(xsdt: UInt64) -> [UInt8] {
        var bytes = Array("RSD PTR ".utf8) + [0]
        bytes += Array("MIGRCT".utf8)
        bytes.append(2)
        bytes.append(UInt32(0))  // no RSDT
        bytes.append(UInt32(36))
        bytes.append(xsdt)
        bytes += [0, 0, 0, 0]
        bytes[8] = checksum(bytes[..<20])
        bytes[32] = checksum(bytes)
        return bytes
    }

    /// XSDT: the list of tables.
    package static func list(_ addresses: [UInt64]) -> ACPITable {
        var body: [UInt8] = []
        for address in addresses { body.append(address) }
        return ACPITable(signature: "XSDT", revision: 1, body: body)
    }
}

extension [UInt8] {
    /// A Generic Address Structure for ports (section 5.2.3.2); zeros where there are none.
    mutating func append(ports: ClosedRange<UInt16>?) {
        guard let ports else {
            self += [UInt8](repeating: 0, count: 12)
            return
        }
        let accessSize: UInt8 = ports.count == 1 ? 1 : 2
        self += [1, UInt8(clamping: ports.count * 8), 0, accessSize]
        append(UInt64(ports.lowerBound))
    }
}
