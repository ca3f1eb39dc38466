/// Boots by the PVH protocol: the loader writes a start_info block, and the guest begins in 32-bit protected mode without
/// paging, with that block's address in EBX (Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h).

import CKVM
import KVM
import Units

/// Loads a PVH image into RAM and sets the first vCPU to its entry.
struct PVHBoot {
    let image: ELFImage
    let commandLine: String

    /// The first MiB's usable part belongs to the loader; images lie above.
    private static let startInfo: UInt64 = 0x6000
    private static let memoryMap: UInt64 = 0x7000
    private static let commandLineStart: UInt64 = 0x20000
    private static let commandLineLimit = 64 << 10
    private static let magic: UInt32 = 0x336E_C578

    private enum RangeType {
        static let ram: UInt32 = 1
        static let reserved: UInt32 = 2
    }

    /// Writes image, command line, memory map and start_info.
    func load(into ram: GuestRAM) throws(MachineError) {
        for segment in image.segments {
            let start = GuestAddress(segment.address)
            guard segment.address >= GuestMemoryLayout.extendedStart else {
                throw MachineError(.badGuestImage, "the guest image loads into the first MiB, which is the loader's")
            }
            guard ram.contains(start, byteCount: segment.memoryByteCount) else {
                throw MachineError(
                    .badGuestImage,
                    "the guest image does not fit: \(segment.memoryByteCount) bytes at \(start) are not all memory")
            }
            // Behind the file's bytes, fresh RAM is zero already.
            try ram.write(image.bytes[segment.file], at: start)
        }

        let text = Array(commandLine.utf8) + [0]
        guard text.count <= Self.commandLineLimit, !text.dropLast().contains(0) else {
            throw MachineError(.invalidOptions, "the guest's command line must be shorter than 64 KiB and hold no zero")
        }
        try ram.write(text, at: GuestAddress(Self.commandLineStart))

        var map: [UInt8] = []
        var count: UInt32 = 0
        func add(_ range: Range<UInt64>, _ type: UInt32) {
            map.append(range.lowerBound)
            map.append(range.upperBound - range.lowerBound)
            map.append(type)
            map.append(UInt32(0))
            count += 1
        }
        for region in ram.regions {
            let start = region.guestAddress.rawValue
            let end = start + UInt64(region.memory.byteCount)
            if start == 0 {
                add(0..<GuestMemoryLayout.realModeEnd, RangeType.ram)
                add(GuestMemoryLayout.realModeEnd..<GuestMemoryLayout.extendedStart, RangeType.reserved)
                add(GuestMemoryLayout.extendedStart..<end, RangeType.ram)
            } else {
                add(start..<end, RangeType.ram)
            }
        }
        try ram.write(map, at: GuestAddress(Self.memoryMap))

        var info: [UInt8] = []
        info.append(Self.magic)
        info.append(UInt32(1))  // version: with a memory map
        info.append(UInt32(0))  // flags
        info.append(UInt32(0))  // modules
        info.append(UInt64(0))
        info.append(Self.commandLineStart)
        info.append(UInt64(0))  // no ACPI tables
        info.append(Self.memoryMap)
        info.append(count)
        info.append(UInt32(0))
        try ram.write(info, at: GuestAddress(Self.startInfo))
    }

    /// The state that the protocol promises; everything else is as after a reset.
    func setEntryState(of vcpu: VCPU) throws(KVMError) {
        var system = try vcpu.segments()
        system.cs = Self.segment(type: 0xB, isCode: true)
        system.ds = Self.segment(type: 0x3, isCode: false)
        system.es = system.ds
        system.ss = system.ds
        system.fs = system.ds
        system.gs = system.ds
        system.tr = kvm_segment()
        system.tr.limit = 0x67
        system.tr.type = 0xB  // a busy 32-bit task
        system.tr.present = 1
        system.cr0 = 0x11  // PE, ET
        system.cr3 = 0
        system.cr4 = 0
        system.efer = 0
        try vcpu.setSegments(system)

        var general = kvm_regs()
        general.rbx = Self.startInfo
        general.rip = UInt64(image.entry)
        general.rflags = 2
        try vcpu.setRegisters(general)
    }

    /// A flat 4 GiB segment.
    private static func segment(type: UInt8, isCode: Bool) -> kvm_segment {
        var segment = kvm_segment()
        segment.limit = 0xFFFF_FFFF
        segment.selector = isCode ? 0x8 : 0x10
        segment.type = type
        segment.present = 1
        segment.db = 1
        segment.s = 1
        segment.g = 1
        return segment
    }
}

extension [UInt8] {
    /// Little-endian, as guests read it.
    fileprivate mutating func append<Number: FixedWidthInteger & UnsignedInteger>(_ value: Number) {
        for shift in stride(from: 0, to: Number.bitWidth, by: 8) {
            append(UInt8(truncatingIfNeeded: value >> Number(shift)))
        }
    }
}
