/// Reads the header of a bzImage (Linux' Documentation/arch/x86/boot.rst, "the real-mode kernel header"). The file may be
/// hostile: every number is checked.

import Units

/// An x86-64 Linux kernel as distributions ship it.
struct BZImage {
    /// Offsets in the file, and in boot_params as well.
    enum Field {
        static let setupSectors = 0x1F1
        static let paragraphs = 0x1F4
        static let bootFlag = 0x1FE
        static let headerEnd = 0x201
        static let magic = 0x202
        static let version = 0x206
        static let loaderType = 0x210
        static let loadFlags = 0x211
        static let initrdAddress = 0x218
        static let initrdSize = 0x21C
        static let commandLine = 0x228
        static let initrdLimit = 0x22C
        static let alignment = 0x230
        static let isRelocatable = 0x234
        static let extendedLoadFlags = 0x236
        static let commandLineSize = 0x238
        static let preferredAddress = 0x258
        static let memorySize = 0x260
    }

    let source: ImageSource
    /// The header's bytes, from `setupSectors` on, for boot_params.
    let header: [UInt8]
    /// The protected-mode kernel in the file.
    let kernel: Range<Int>
    /// Where it wants to be, and how much memory it needs there until it has unpacked itself.
    let preferredAddress: UInt64
    let memoryByteCount: UInt64
    /// It can be elsewhere, at multiples of this.
    let isRelocatable: Bool
    let alignment: UInt64
    /// The first address that an initrd must not reach.
    let initrdLimit: UInt64
    let commandLineLimit: Int

    /// Where boot_params keeps the header, and the most of it that there is room for.
    private static let headerStart = Field.setupSectors
    private static let headerLimit = 0x290
    private static let sector = 512
    /// 2.12 brought xloadflags, by which a kernel says that it has a 64-bit entry (Linux 3.8).
    private static let leastVersion: UInt16 = 0x020C

    init(_ source: ImageSource) throws {
        func bad(_ reason: String) -> MachineError {
            MachineError(.badGuestImage, "the \(source.name) cannot be booted: \(reason)")
        }
        let start = try source.bytes(0..<Self.headerLimit)
        guard start.number(Field.bootFlag, UInt16.self) == 0xAA55,
            start.number(Field.magic, UInt32.self) == 0x5372_6448  // "HdrS"
        else { throw bad("it is neither a bzImage nor an ELF file") }
        guard start.count == Self.headerLimit, let version = start.number(Field.version, UInt16.self) else {
            throw bad("it is cut off")
        }
        guard version >= Self.leastVersion else {
            throw bad(
                "its boot protocol is \(version >> 8).\(version & 0xFF), machines here need 2.12 (Linux 3.8) or newer")
        }
        guard let flags = start.number(Field.extendedLoadFlags, UInt16.self), flags & 1 != 0 else {
            throw bad("it has no 64-bit entry: is it a 32-bit kernel?")
        }
        guard start[Field.loadFlags] & 1 != 0 else { throw bad("it is a zImage, which loads below 1 MiB") }

        let sectors = start[Field.setupSectors] == 0 ? 4 : Int(start[Field.setupSectors])
        let setup = (sectors + 1) * Self.sector
        guard let paragraphs = start.number(Field.paragraphs, UInt32.self), paragraphs > 0 else {
            throw bad("its header says that there is no kernel in it")
        }
        let size = Int(paragraphs) * 16
        // The last paragraph need not be whole; what follows it is a signature.
        let present = max(source.byteCount - setup, 0)
        guard present > size - 16 else {
            throw bad("it is cut off: its header promises \(setup + size) bytes, it has \(source.byteCount)")
        }
        kernel = setup..<setup + min(size, present)

        // The jump over the header tells where the header ends.
        let end = Int(start[Field.headerEnd]) + Field.magic
        guard end > Field.memorySize + 4, end <= Self.headerLimit else {
            throw bad("its header has an impossible length")
        }
        header = Array(start[Self.headerStart..<end])

        let alignment = UInt64(start.number(Field.alignment, UInt32.self) ?? 0)
        guard alignment >= 0x1000, alignment <= 1 << 30, alignment & (alignment - 1) == 0 else {
            throw bad("it wants to be aligned to \(alignment) bytes")
        }
        self.alignment = alignment
        preferredAddress = start.number(Field.preferredAddress, UInt64.self) ?? 0
        memoryByteCount = max(UInt64(start.number(Field.memorySize, UInt32.self) ?? 0), UInt64(kernel.count))
        isRelocatable = start[Field.isRelocatable] != 0
        guard preferredAddress >= GuestMemoryLayout.extendedStart, preferredAddress < GuestMemoryLayout.holeStart else {
            throw bad("it wants to be loaded at 0x" + String(preferredAddress, radix: 16))
        }
        let lastInitrdByte = UInt64(start.number(Field.initrdLimit, UInt32.self) ?? 0)
        initrdLimit = lastInitrdByte + 1
        commandLineLimit = min(
            Int(start.number(Field.commandLineSize, UInt32.self) ?? 0), LowMemory.commandLineLimit - 1)
        self.source = source
    }

    /// Where it goes in a machine with this much RAM below 4 GiB: where it wants to be, or as low as it can if that is too
    /// high.
    func loadAddress(lowMemory: UInt64) throws(MachineError) -> UInt64 {
        if preferredAddress + memoryByteCount <= lowMemory { return preferredAddress }
        let lowest = (GuestMemoryLayout.extendedStart + alignment - 1) / alignment * alignment
        if isRelocatable, lowest + memoryByteCount <= lowMemory { return lowest }
        throw MachineError(
            .badGuestImage,
            """
            the \(source.name) does not fit: it needs \((preferredAddress + memoryByteCount) >> 20) MiB of memory, and \
            this machine has \(lowMemory >> 20) MiB below 4 GiB
            """)
    }
}
