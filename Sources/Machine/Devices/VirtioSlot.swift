/// Where virtio devices are. Part of what a guest remembers, and so of what two migratectls must agree on.

/// The places for virtio-mmio devices: one page of registers and one interrupt line each.
package enum VirtioSlot {
    /// Lines 16 to 23 are the IOAPIC's own.
    package static let count = 8
    package static let byteCount: UInt64 = 0x1000

    package static func address(_ slot: Int) -> UInt64 {
        precondition((0..<count).contains(slot))
        return 0xD000_0000 + UInt64(slot) * byteCount
    }

    package static func line(_ slot: Int) -> Int {
        precondition((0..<count).contains(slot))
        return 16 + slot
    }
}
