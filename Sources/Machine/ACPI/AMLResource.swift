/// Resource descriptors: what a device occupies (ACPI 6.4, section 6.4).

/// One thing that a device occupies.
package enum AMLResource: Equatable, Sendable {
    /// Ports, all of which the device decodes.
    case ports(ClosedRange<UInt16>)
    /// An ISA interrupt: edge-triggered, active high, not shared.
    case isaInterrupt(Int)
    /// Memory at a fixed 32-bit address.
    case memory(start: UInt32, byteCount: UInt32)
    /// An interrupt of the IOAPIC: level-triggered, active high, not shared.
    case levelInterrupt(UInt32)

    var bytes: [UInt8] {
        var bytes: [UInt8] = []
        switch self {
        case .ports(let range):
            bytes = [0x47, 0x01]  // decodes 16 bits
            bytes.append(range.lowerBound)
            bytes.append(range.lowerBound)
            bytes += [0x01, UInt8(clamping: range.count)]
        case .isaInterrupt(let line):
            bytes = [0x22]
            bytes.append(UInt16(1) << UInt16(line))
        case .memory(let start, let byteCount):
            bytes = [0x86, 0x09, 0x00, 0x01]  // writable
            bytes.append(start)
            bytes.append(byteCount)
        case .levelInterrupt(let line):
            bytes = [0x89, 0x06, 0x00, 0x01, 0x01]  // consumer, level, active high, exclusive; one interrupt
            bytes.append(line)
        }
        return bytes
    }
}

extension AML {
    /// `_CRS`: what a device occupies, with the end tag (a checksum of 0 says that there is none).
    package static func resources(_ list: [AMLResource]) -> AML {
        .name("_CRS", .buffer(list.flatMap(\.bytes) + [0x79, 0x00]))
    }
}
