/// Reads the parts of an ELF file that a boot loader needs. The file may be hostile: every number is checked.

import Units

/// An x86-64 ELF executable with a PVH entry (Xen's note XEN_ELFNOTE_PHYS32_ENTRY).
struct ELFImage {
    /// Bytes of the file that belong at a guest physical address, zeros behind them up to `memoryByteCount`.
    struct Segment: Equatable {
        var address: UInt64
        var file: Range<Int>
        var memoryByteCount: UInt64
    }

    let source: ImageSource
    let segments: [Segment]
    /// Where the guest starts, in 32-bit protected mode.
    let entry: UInt32

    private static let loadType: UInt32 = 1
    private static let noteType: UInt32 = 4
    private static let pvhEntryNote: UInt32 = 18
    /// Program headers beyond this are no kernel's.
    private static let maximumHeaderCount = 256
    /// Notes are read whole; a kernel's have less than a page.
    private static let maximumNoteByteCount = 1 << 20
    static let magic: [UInt8] = [0x7F, 0x45, 0x4C, 0x46]

    init(_ source: ImageSource) throws {
        let reader = Reader(source)
        let start = try source.bytes(0..<64)
        guard start.starts(with: Self.magic) else { throw Self.bad("it is not an ELF file") }
        guard start.count == 64 else { throw Self.bad("its header is cut off") }
        guard start[4] == 2, start[5] == 1 else { throw Self.bad("it is not 64-bit little-endian ELF") }
        guard try reader.number(18, UInt16.self) == 62 else { throw Self.bad("it is not for x86-64") }

        let tableOffset = try reader.number(32, UInt64.self)
        let entrySize = Int(try reader.number(54, UInt16.self))
        let entryCount = Int(try reader.number(56, UInt16.self))
        guard entrySize == 56, entryCount > 0, entryCount <= Self.maximumHeaderCount else {
            throw Self.bad("its program headers are not as they should be")
        }
        let table = try reader.range(tableOffset, UInt64(entrySize * entryCount))

        var segments: [Segment] = []
        var entry: UInt64?
        for position in stride(from: table.lowerBound, to: table.upperBound, by: entrySize) {
            let type = try reader.number(position, UInt32.self)
            guard type == Self.loadType || type == Self.noteType else { continue }
            let file = try reader.range(
                try reader.number(position + 8, UInt64.self), try reader.number(position + 32, UInt64.self))
            if type == Self.noteType {
                if entry == nil { entry = try Self.findEntry(in: try reader.notes(file)) }
                continue
            }
            let address = try reader.number(position + 24, UInt64.self)
            let memoryByteCount = try reader.number(position + 40, UInt64.self)
            guard memoryByteCount >= UInt64(file.count) else {
                throw Self.bad("a segment has more bytes in the file than in memory")
            }
            guard !address.addingReportingOverflow(memoryByteCount).overflow else {
                throw Self.bad("a segment reaches beyond the address space")
            }
            if memoryByteCount > 0 {
                segments.append(Segment(address: address, file: file, memoryByteCount: memoryByteCount))
            }
        }
        guard !segments.isEmpty else { throw Self.bad("it has nothing to load") }
        guard let entry else { throw Self.bad("it has no PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY)") }
        guard let entry = UInt32(exactly: entry),
            segments.contains(where: { $0.address <= entry && UInt64(entry) - $0.address < $0.memoryByteCount })
        else { throw Self.bad("its PVH entry is not inside what it loads") }
        self.source = source
        self.segments = segments
        self.entry = entry
    }

    /// Notes are a name and a descriptor after three 32-bit numbers (name size, descriptor size, type), each padded to
    /// four bytes.
    private static func findEntry(in notes: [UInt8]) throws(MachineError) -> UInt64? {
        var position = 0
        while let nameSize = notes.number(position, UInt32.self),
            let descriptorSize = notes.number(position + 4, UInt32.self),
            let type = notes.number(position + 8, UInt32.self)
        {
            let name = position + 12
            let descriptor = name + (Int(nameSize) + 3) & ~3
            let next = descriptor + (Int(descriptorSize) + 3) & ~3
            guard descriptor + Int(descriptorSize) <= notes.count else {
                throw bad("a note reaches beyond its segment")
            }
            if type == pvhEntryNote, nameSize == 4, notes[name..<name + 4].elementsEqual([0x58, 0x65, 0x6E, 0]) {
                switch descriptorSize {
                case 4: return notes.number(descriptor, UInt32.self).map(UInt64.init)
                case 8: return notes.number(descriptor, UInt64.self)
                default: throw bad("its PVH entry note has \(descriptorSize) bytes instead of 4 or 8")
                }
            }
            position = next
        }
        return nil
    }

    private static func bad(_ reason: String) -> MachineError {
        MachineError(.badGuestImage, "the guest image cannot be booted: \(reason)")
    }

    /// Little-endian numbers of a file, each checked against its end.
    private struct Reader {
        let source: ImageSource
        init(_ source: ImageSource) { self.source = source }

        func number<Number: FixedWidthInteger & UnsignedInteger>(_ position: Int, _: Number.Type) throws -> Number {
            let end = position.addingReportingOverflow(Number.bitWidth / 8)
            guard position >= 0, !end.overflow,
                let value = try source.bytes(position..<end.partialValue).number(0, Number.self)
            else { throw ELFImage.bad("it is cut off") }
            return value
        }

        func range(_ offset: UInt64, _ count: UInt64) throws(MachineError) -> Range<Int> {
            let size = UInt64(source.byteCount)
            guard offset <= size, count <= size - offset else { throw ELFImage.bad("it is cut off") }
            return Int(offset)..<Int(offset + count)
        }

        func notes(_ range: Range<Int>) throws -> [UInt8] {
            guard range.count <= ELFImage.maximumNoteByteCount else {
                throw ELFImage.bad("its notes are \(range.count) bytes long")
            }
            return try source.bytes(range)
        }
    }
}
