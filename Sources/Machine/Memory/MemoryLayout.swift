/// Where guest RAM lies in the guest's address space.

import Migrate
import Units

/// The map of a PC: RAM from 0 up to the hole that PCI devices, the APICs and firmware live in, and from 4 GiB on.
public enum GuestMemoryLayout {
    /// Everything from here to 4 GiB is not RAM.
    public static let holeStart: UInt64 = 3 << 30
    public static let highStart: UInt64 = 4 << 30

    /// Real mode's RAM ends here; video memory and ROM areas follow up to 1 MiB. They are backed by RAM as well, but
    /// not told to the guest.
    static let realModeEnd: UInt64 = 0xA0000
    static let extendedStart: UInt64 = 0x100000

    /// KVM's private pages for real mode on Intel hosts, as far from anything else as QEMU has them.
    static let identityMap = GuestAddress(0xFEFF_C000)
    static let taskState = GuestAddress(0xFEFF_D000)

    /// The least and the most that a machine can have.
    public static let minimumByteCount: UInt64 = 2 << 20
    public static let maximumByteCount: UInt64 = 1 << 40

    /// The regions of a machine with this much RAM, in the order of their slots.
    public static func regions(for memory: ByteCount) -> [MachineConfiguration.Memory] {
        let total = memory.rawValue
        let low = min(total, holeStart)
        var regions = [MachineConfiguration.Memory(guestAddress: GuestAddress(0), byteCount: low)]
        if total > low {
            regions.append(MachineConfiguration.Memory(guestAddress: GuestAddress(highStart), byteCount: total - low))
        }
        return regions
    }

    /// What is wrong with an amount of RAM, nil when nothing is.
    public static func problem(with memory: ByteCount) -> String? {
        let total = memory.rawValue
        if total < minimumByteCount || total > maximumByteCount {
            return "memory must be between 2 MiB and 1 TiB, not \(total) bytes"
        }
        return total % UInt64(hugePage) == 0
            ? nil : "memory must be whole MiB, an even number of them, not \(total) bytes"
    }

    private static let hugePage = 2 << 20
}
