/// Guest RAM: its mappings, and the one way in which this process writes it.

import DirtyLog
import KVM
import Migrate
import Synchronization
import Units

/// The RAM of one machine. Region `i` is memory slot `i`.
final class GuestRAM: Sendable {
    struct Region: Sendable {
        let guestAddress: GuestAddress
        let memory: GuestMemory
    }

    let regions: [Region]
    private let pagemap: Pagemap
    private let tracker = Mutex(WeakTracker())
    /// Lets pages follow the machine. Kept for as long as the machine lives: see `PagedMemory`.
    private let paged = Mutex<PagedMemory?>(nil)

    private struct WeakTracker {
        weak var value: (any DirtyTracker)?
    }

    init(layout: [MachineConfiguration.Memory], backing: MemoryBacking) throws {
        pagemap = try Pagemap()
        var made: [Region] = []
        for (index, range) in layout.enumerated() {
            let memory = try GuestMemory(byteCount: Int(range.byteCount), backing: backing, name: "guest-ram-\(index)")
            made.append(Region(guestAddress: range.guestAddress, memory: memory))
        }
        regions = made
    }

    /// Shows the RAM to the guest.
    func map(into vm: VirtualMachine) throws(KVMError) {
        for (slot, region) in regions.enumerated() {
            try unsafe vm.setMemorySlot(
                slot, guestAddress: region.guestAddress, byteCount: region.memory.byteCount, base: region.memory.base)
        }
    }

    var migratableRegions: [MemoryRegion] {
        regions.map {
            unsafe MemoryRegion(
                guestAddress: $0.guestAddress, byteCount: $0.memory.byteCount, base: $0.memory.base)
        }
    }

    var trackedRegions: [TrackedRegion] {
        regions.enumerated().map { slot, region in
            unsafe TrackedRegion(
                slot: slot, guestAddress: region.guestAddress, base: region.memory.base,
                pageCount: region.memory.byteCount / pageByteCount, backing: region.memory.backing)
        }
    }

    /// The log that is told of this process' own writes from now on.
    func setTracker(_ value: any DirtyTracker) { tracker.withLock { $0.value = value } }
    var currentTracker: (any DirtyTracker)? { tracker.withLock { $0.value } }

    /// Writes guest RAM and tells the dirty log, which KVM does not do for writes from here. Every write by a loader or
    /// a device comes through here.
    func write(_ bytes: some Collection<UInt8>, at address: GuestAddress) throws(MachineError) {
        let (index, offset) = try locate(address, byteCount: bytes.count)
        guard !bytes.isEmpty else { return }
        let target = unsafe regions[index].memory.base + offset
        let raw = unsafe UnsafeMutableRawBufferPointer(start: target, count: bytes.count)
        unsafe raw.copyBytes(from: bytes)
        markWritten(region: index, offset: offset, byteCount: bytes.count)
    }

    /// Lets `source` write guest RAM in place, a part at a time, and tells the dirty log: `write` without a copy, for
    /// images. `source` gets the part to fill and where that begins, counted from `address`.
    func fill(
        _ address: GuestAddress, byteCount: Int,
        from source: (_ target: UnsafeMutableRawBufferPointer, _ offset: Int) throws -> Void
    ) throws {
        let (index, offset) = try locate(address, byteCount: byteCount)
        let base = unsafe regions[index].memory.base + offset
        var done = 0
        while done < byteCount {
            let count = min(byteCount - done, 4 << 20)
            try unsafe source(UnsafeMutableRawBufferPointer(start: base + done, count: count), done)
            markWritten(region: index, offset: offset + done, byteCount: count)
            done += count
        }
    }

    /// A copy of guest RAM. While vCPUs run it may be torn.
    func read(at address: GuestAddress, byteCount: Int) throws(MachineError) -> [UInt8] {
        let (index, offset) = try locate(address, byteCount: byteCount)
        let source = unsafe UnsafeRawBufferPointer(start: regions[index].memory.base + offset, count: byteCount)
        return unsafe Array(source)
    }

    /// Whether all these bytes are RAM, in one region.
    func contains(_ address: GuestAddress, byteCount: UInt64) -> Bool {
        guard let count = Int(exactly: byteCount) else { return false }
        return (try? locate(address, byteCount: count)) != nil
    }

    func markWritten(region: Int, offset: Int, byteCount: Int) {
        guard let tracker = currentTracker else { return }
        let first = offset / pageByteCount
        let last = (offset + byteCount - 1) / pageByteCount
        tracker.markWritten(region: region, run: PageRun(start: PageIndex(first), count: last - first + 1))
    }

    func locate(_ address: GuestAddress, byteCount: Int) throws(MachineError) -> (region: Int, offset: Int) {
        for (index, region) in regions.enumerated() where address >= region.guestAddress {
            let offset = address.rawValue - region.guestAddress.rawValue
            let size = UInt64(region.memory.byteCount)
            if byteCount >= 0, offset <= size, UInt64(byteCount) <= size - offset { return (index, Int(offset)) }
        }
        throw MachineError(.badAddress, "\(byteCount) bytes at \(address) are not all in guest RAM")
    }

    func readPopulation(
        region: Int, firstPage: PageIndex, words: UnsafeMutableBufferPointer<UInt64>
    ) throws(KVMError) {
        try unsafe pagemap.readPopulation(of: regions[region].memory, firstPage: firstPage, words: words)
    }

    /// A way for its pages to come from elsewhere.
    func makePaged() throws(PagingUnavailable) -> PagedMemory {
        let made = try PagedMemory(regions.map(\.memory))
        paged.withLock { $0 = made }
        return made
    }

    /// Pages may be missing: none may be made so here, since nobody would bring it.
    var isPaged: Bool { paged.withLock { $0 }?.isWatched ?? false }

    /// Makes all of it resident, in huge pages where the backing and the host allow.
    func populate(isCancelled: () -> Bool) throws(KVMError) {
        for region in regions { try region.memory.populate(isCancelled: isCancelled) }
    }
}
