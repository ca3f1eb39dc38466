/// The initial RAM disk that a kernel unpacks at its start.

import KVM
import Units

/// An initrd and where it goes: as high as the kernel can reach, so that nothing that the kernel does at its start meets
/// it.
struct InitialRAMDisk {
    /// Larger ones are somebody's disk.
    static let maximumByteCount = 4 << 30

    let image: ImageSource

    init(path: String) throws {
        image = try ImageSource(path: path, role: "initrd", maximumByteCount: Self.maximumByteCount)
        guard image.byteCount > 0 else { throw MachineError(.badGuestImage, "the \(image.name) is empty") }
    }

    /// Loads it below `limit` and above `kernelEnd`; returns where.
    func load(into ram: GuestRAM, above kernelEnd: UInt64, below limit: UInt64) throws -> Range<UInt64> {
        let low = ram.regions.first.map { $0.guestAddress.rawValue + UInt64($0.memory.byteCount) } ?? 0
        let end = min(low, limit)
        let size = UInt64(image.byteCount)
        let page = UInt64(pageByteCount)
        let start = end >= size ? (end - size) / page * page : 0
        guard start >= max(kernelEnd, GuestMemoryLayout.extendedStart) else {
            let room = end > kernelEnd ? end - kernelEnd : 0
            throw MachineError(
                .badGuestImage,
                """
                the \(image.name) does not fit: it has \(size >> 10) KiB, and beside the kernel this machine has \
                \(room >> 10) KiB of memory for it; give the VM more memory
                """)
        }
        try image.load(0..<image.byteCount, into: ram, at: GuestAddress(start))
        return start..<start + size
    }
}
