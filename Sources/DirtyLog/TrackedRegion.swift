/// A memory region as trackers see it.

import KVM
import Units

/// One region of guest RAM and the one memory slot that it is.
@safe
public struct TrackedRegion: @unchecked Sendable {
    /// The number of the slot that maps the region, whole and alone.
    public let slot: Int
    /// Where the guest sees it.
    public let guestAddress: GuestAddress
    /// Its first byte in this process; stays mapped as long as a tracker of it lives.
    @unsafe public let base: UnsafeMutableRawPointer
    /// Its length.
    public let pageCount: Int
    /// What the memory is made of: it decides at which granularity, and how, the pagemap tracker looks.
    public let backing: MemoryBacking

    public init(
        slot: Int, guestAddress: GuestAddress, base: UnsafeMutableRawPointer, pageCount: Int,
        backing: MemoryBacking = .anonymous
    ) {
        precondition(pageCount > 0, "a region has pages")
        self.slot = slot
        self.guestAddress = guestAddress
        unsafe self.base = base
        self.pageCount = pageCount
        self.backing = backing
    }

    var address: UInt64 { unsafe UInt64(UInt(bitPattern: base)) }
    var byteCount: Int { pageCount * pageByteCount }
}

extension VirtualMachine {
    /// Turns KVM's log of these regions' slots on or off. If it fails half-way on, it is off again.
    func setLogging(_ isOn: Bool, of regions: [TrackedRegion]) throws {
        for (index, region) in regions.enumerated() {
            do {
                try unsafe setMemorySlot(
                    region.slot, guestAddress: region.guestAddress, byteCount: region.byteCount, base: region.base,
                    logsDirtyPages: isOn)
            } catch {
                if isOn { try? setLogging(false, of: Array(regions[..<index])) }
                throw error
            }
        }
    }
}

/// Checks what every harvest asks of its caller.
func checkSets(_ sets: [PageSet], for regions: [TrackedRegion]) {
    precondition(
        sets.count == regions.count && zip(sets, regions).allSatisfy { $0.pageCount == $1.pageCount },
        "one set a region, of its size")
}
