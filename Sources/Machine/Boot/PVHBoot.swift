/// Boots by the PVH protocol: the loader writes a start_info block, and the guest begins in 32-bit protected mode without
/// paging, with that block's address in EBX (Xen's docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h).

import CKVM
import KVM
import Units

/// Loads a PVH image into RAM and sets the first vCPU to its entry.
struct PVHBoot: GuestLoader {
    let image: ELFImage
    let commandLine: String
    var initrd: InitialRAMDisk?
    /// Where the ACPI tables begin; 0 for a machine without.
    var acpiTables: UInt64 = 0

    private static let magic: UInt32 = 0x336E_C578

    /// Writes image, initrd, command line, memory map and start_info.
    func load(into ram: GuestRAM) throws {
        var end: UInt64 = 0
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
            try image.source.load(segment.file, into: ram, at: start)
            end = max(end, segment.address + segment.memoryByteCount)
        }

        let text = try LowMemory.commandLineBytes(commandLine, limit: LowMemory.commandLineLimit - 1)
        try ram.write(text, at: GuestAddress(LowMemory.commandLine))

        var modules: [UInt8] = []
        if let initrd {
            let range = try initrd.load(into: ram, above: end, below: GuestMemoryLayout.highStart)
            modules.append(range.lowerBound)
            modules.append(range.upperBound - range.lowerBound)
            modules.append(UInt64(0))  // no command line of its own
            modules.append(UInt64(0))
            try ram.write(modules, at: GuestAddress(LowMemory.moduleList))
        }

        let map = ram.memoryMap
        var list: [UInt8] = []
        for entry in map {
            list.append(entry.range.lowerBound)
            list.append(entry.range.upperBound - entry.range.lowerBound)
            list.append(entry.kind.rawValue)
            list.append(UInt32(0))
        }
        try ram.write(list, at: GuestAddress(LowMemory.memoryMap))

        var info: [UInt8] = []
        info.append(Self.magic)
        info.append(UInt32(1))  // version: with a memory map
        info.append(UInt32(0))  // flags
        info.append(UInt32(modules.isEmpty ? 0 : 1))
        info.append(modules.isEmpty ? UInt64(0) : LowMemory.moduleList)
        info.append(LowMemory.commandLine)
        info.append(acpiTables)
        info.append(LowMemory.memoryMap)
        info.append(UInt32(clamping: map.count))
        info.append(UInt32(0))
        try ram.write(info, at: GuestAddress(LowMemory.startInfo))
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
        general.rbx = LowMemory.startInfo
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
