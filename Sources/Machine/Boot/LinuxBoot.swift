/// Boots a bzImage at its 64-bit entry (Linux' Documentation/arch/x86/boot.rst, "64-bit boot protocol"): no BIOS, no
/// real-mode code. The loader writes boot_params, and the kernel begins in long mode with its address in RSI.

import CKVM
import KVM
import Units

/// Loads a bzImage into RAM and sets the first vCPU to its entry.
struct LinuxBoot: GuestLoader {
    let image: BZImage
    let initrd: InitialRAMDisk?
    let commandLine: String
    let acpiTables: UInt64
    private let loadAddress: UInt64

    /// Offsets in boot_params (Linux' arch/x86/include/uapi/asm/bootparam.h).
    private enum Parameter {
        static let acpiTables = 0x070
        static let mapEntryCount = 0x1E8
        static let map = 0x2D0
        static let byteCount = 4096
        static let mapLimit = 128
    }

    /// Selectors that the protocol demands: __BOOT_CS and __BOOT_DS.
    private static let codeSelector: UInt16 = 0x10
    private static let dataSelector: UInt16 = 0x18
    private static let taskSelector: UInt16 = 0x20
    private static let entryOffset: UInt64 = 0x200
    /// "Undefined" in the list of boot loaders.
    private static let loaderType: UInt8 = 0xFF

    init(
        image: BZImage, initrd: InitialRAMDisk?, commandLine: String, acpiTables: UInt64, lowMemory: UInt64
    ) throws(MachineError) {
        self.image = image
        self.initrd = initrd
        self.commandLine = commandLine
        self.acpiTables = acpiTables
        loadAddress = try image.loadAddress(lowMemory: lowMemory)
    }

    /// Writes kernel, initrd, command line, boot_params, page tables and descriptor table.
    func load(into ram: GuestRAM) throws {
        let text = try LowMemory.commandLineBytes(commandLine, limit: image.commandLineLimit)
        try ram.write(text, at: GuestAddress(LowMemory.commandLine))
        try image.source.load(image.kernel, into: ram, at: GuestAddress(loadAddress))

        var parameters = [UInt8](repeating: 0, count: Parameter.byteCount)
        parameters.replaceSubrange(
            BZImage.Field.setupSectors..<BZImage.Field.setupSectors + image.header.count, with: image.header)
        parameters[BZImage.Field.loaderType] = Self.loaderType
        parameters.put(UInt32(truncatingIfNeeded: LowMemory.commandLine), at: BZImage.Field.commandLine)
        parameters.put(acpiTables, at: Parameter.acpiTables)
        var initrdRange: Range<UInt64> = 0..<0
        if let initrd {
            initrdRange = try initrd.load(
                into: ram, above: loadAddress + image.memoryByteCount, below: image.initrdLimit)
        }
        parameters.put(UInt32(clamping: initrdRange.lowerBound), at: BZImage.Field.initrdAddress)
        parameters.put(
            UInt32(clamping: initrdRange.upperBound - initrdRange.lowerBound), at: BZImage.Field.initrdSize)

        let map = ram.memoryMap.prefix(Parameter.mapLimit)
        parameters[Parameter.mapEntryCount] = UInt8(map.count)
        for (index, entry) in map.enumerated() {
            let place = Parameter.map + index * 20
            parameters.put(entry.range.lowerBound, at: place)
            parameters.put(entry.range.upperBound - entry.range.lowerBound, at: place + 8)
            parameters.put(entry.kind.rawValue, at: place + 16)
        }
        try ram.write(parameters, at: GuestAddress(LowMemory.bootParameters))
        try ram.write(Self.pageTables, at: GuestAddress(LowMemory.pageTables))
        try ram.write(Self.descriptorTable, at: GuestAddress(LowMemory.descriptorTable))
    }

    /// The first 4 GiB, where they are, in pages of 2 MiB.
    private static var pageTables: [UInt8] {
        let present: UInt64 = 0x3  // and writable
        let largePage: UInt64 = 0x80
        let page = UInt64(pageByteCount)
        var tables = [UInt8](repeating: 0, count: 6 * pageByteCount)
        let (level3, level2) = (LowMemory.pageTables + page, LowMemory.pageTables + 2 * page)
        tables.put(level3 | present, at: 0)
        for gigabyte in 0..<4 {
            tables.put(level2 + UInt64(gigabyte) * page | present, at: pageByteCount + gigabyte * 8)
        }
        for index in 0..<2048 {
            tables.put(UInt64(index) << 21 | largePage | present, at: 2 * pageByteCount + index * 8)
        }
        return tables
    }

    /// Null, null, 64-bit code, data, and a task segment of two entries.
    private static var descriptorTable: [UInt8] {
        var table: [UInt8] = []
        table.append(UInt64(0))
        table.append(UInt64(0))
        table.append(UInt64(0x00AF_9B00_0000_FFFF))
        table.append(UInt64(0x00CF_9300_0000_FFFF))
        table.append(UInt64(0x0000_8B00_0000_0067))
        table.append(UInt64(0))
        return table
    }

    func setEntryState(of vcpu: VCPU) throws(KVMError) {
        var system = try vcpu.segments()
        system.cs = Self.segment(Self.codeSelector, type: 0xB, isCode: true)
        system.ds = Self.segment(Self.dataSelector, type: 0x3, isCode: false)
        system.es = system.ds
        system.ss = system.ds
        system.fs = system.ds
        system.gs = system.ds
        system.tr = kvm_segment()
        system.tr.selector = Self.taskSelector
        system.tr.limit = 0x67
        system.tr.type = 0xB  // a busy task
        system.tr.present = 1
        system.gdt.base = LowMemory.descriptorTable
        system.gdt.limit = UInt16(Self.descriptorTable.count - 1)
        system.idt.base = 0
        system.idt.limit = 0
        system.cr0 = 0x8000_0011  // PG, ET, PE
        system.cr3 = LowMemory.pageTables
        system.cr4 = 0x20  // PAE
        system.efer = 0x500  // LMA, LME
        try vcpu.setSegments(system)

        var general = kvm_regs()
        general.rip = loadAddress + Self.entryOffset
        general.rsi = LowMemory.bootParameters
        general.rflags = 2
        try vcpu.setRegisters(general)
    }

    /// A flat segment.
    private static func segment(_ selector: UInt16, type: UInt8, isCode: Bool) -> kvm_segment {
        var segment = kvm_segment()
        segment.limit = 0xFFFF_FFFF
        segment.selector = selector
        segment.type = type
        segment.present = 1
        segment.db = isCode ? 0 : 1
        segment.l = isCode ? 1 : 0
        segment.s = 1
        segment.g = 1
        return segment
    }
}
