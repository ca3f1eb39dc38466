/// What the loaders put where in the first MiB, and the memory map that guests are told.

import KVM
import Units

/// The first MiB as the loaders share it out. Guests that need its RAM take it back once they run.
enum LowMemory {
    /// The descriptor table of a 64-bit entry.
    static let descriptorTable: UInt64 = 0x5000
    /// PVH: start_info, module list behind it, memory map.
    static let startInfo: UInt64 = 0x6000
    static let moduleList: UInt64 = 0x6800
    static let memoryMap: UInt64 = 0x7000
    /// Linux: boot_params ("zero page").
    static let bootParameters: UInt64 = 0x8000
    /// Page tables of a 64-bit entry: one page each of levels 4 and 3, four of level 2.
    static let pageTables: UInt64 = 0x9000
    static let commandLine: UInt64 = 0x20000
    static let commandLineLimit = 64 << 10
    /// What a PC's BIOS occupies: ACPI tables, then the page of the generation identifier. No RAM to the guest.
    static let firmware: Range<UInt64> = 0xE0000..<0x100000
    static let generationPage: UInt64 = 0xF0000

    /// Checks a command line and gives it its end.
    static func commandLineBytes(_ text: String, limit: Int) throws(MachineError) -> [UInt8] {
        let bytes = Array(text.utf8)
        guard !bytes.contains(0) else {
            throw MachineError(.invalidOptions, "the guest's command line must not hold a zero byte")
        }
        guard bytes.count <= limit else {
            throw MachineError(
                .invalidOptions,
                "the guest's command line has \(bytes.count) bytes, more than the \(limit) that this guest can read")
        }
        return bytes + [0]
    }
}

/// A range of guest-physical addresses, as memory maps list it. The types are E820's.
struct MemoryMapEntry: Equatable {
    enum Kind: UInt32 {
        case ram = 1
        case reserved = 2
    }

    var range: Range<UInt64>
    var kind: Kind

    /// The map of a machine: RAM but for the PC's hole below 1 MiB. Everything else stays unnamed.
    static func map(of regions: [(start: UInt64, byteCount: UInt64)]) -> [MemoryMapEntry] {
        var entries: [MemoryMapEntry] = []
        for (start, byteCount) in regions {
            let end = start + byteCount
            if start == 0 {
                entries.append(MemoryMapEntry(range: 0..<GuestMemoryLayout.realModeEnd, kind: .ram))
                entries.append(
                    MemoryMapEntry(
                        range: GuestMemoryLayout.realModeEnd..<GuestMemoryLayout.extendedStart, kind: .reserved))
                entries.append(MemoryMapEntry(range: GuestMemoryLayout.extendedStart..<end, kind: .ram))
            } else {
                entries.append(MemoryMapEntry(range: start..<end, kind: .ram))
            }
        }
        return entries
    }
}

extension GuestRAM {
    var memoryMap: [MemoryMapEntry] {
        MemoryMapEntry.map(of: regions.map { ($0.guestAddress.rawValue, UInt64($0.memory.byteCount)) })
    }
}
