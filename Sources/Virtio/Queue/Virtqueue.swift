/// A split virtqueue (virtio 1.2, 2.7), the device's side. The driver is not trusted: whatever it may not do becomes a
/// `VirtioFault`, and nothing outside RAM is touched.

import CLibURing

/// One queue that a driver made ready. Only one thread at a time uses it: the one that holds the device's work lock.
@safe
public final class Virtqueue: @unchecked Sendable {
    public let index: Int
    let layout: RingLayout
    /// Also the bound of an indirect table: a longer chain than the device offers queue entries is never needed.
    private let maximumSize: UInt16
    private let allowsIndirect: Bool
    private let usesEventIndex: Bool
    private let memory: any GuestMemoryAccess
    private let notify: @Sendable () -> Void
    @unsafe private let descriptors: UnsafeRawPointer
    @unsafe private let available: UnsafeRawPointer
    @unsafe private let used: UnsafeMutableRawPointer

    /// The next entry of the available ring to take.
    private(set) var nextAvailable: UInt16
    /// The next entry of the used ring to fill.
    private(set) var nextUsed: UInt16
    /// The driver's index as last read; what lies below it is there to be taken.
    private var seenAvailable: UInt16
    /// The used index that the driver sees.
    private var publishedUsed: UInt16
    /// Where the driver was last told of used buffers; unknown after a move, so that the first publication always tells.
    private var isFirstPublication = true
    private var armedEvent: UInt16?

    /// Checks the geometry. `nextIndex` is where both rings continue: 0 after a reset.
    init(
        index: Int, layout: RingLayout, maximumSize: UInt16, features: UInt64, nextIndex: UInt16,
        memory: any GuestMemoryAccess, notify: @escaping @Sendable () -> Void
    ) throws(VirtioFault) {
        try layout.check(maximumSize: maximumSize)
        self.index = index
        self.layout = layout
        self.maximumSize = maximumSize
        self.memory = memory
        self.notify = notify
        allowsIndirect = features & Feature.indirectDescriptors != 0
        usesEventIndex = features & Feature.eventIndex != 0
        nextAvailable = nextIndex
        nextUsed = nextIndex
        seenAvailable = nextIndex
        publishedUsed = nextIndex
        unsafe descriptors = UnsafeRawPointer(
            try Self.map(memory, "descriptor table", layout.descriptors, layout.descriptorsByteCount))
        unsafe available = UnsafeRawPointer(
            try Self.map(memory, "available ring", layout.driver, layout.driverByteCount))
        unsafe used = try unsafe Self.map(memory, "used ring", layout.device, layout.deviceByteCount)
    }

    private static func map(
        _ memory: any GuestMemoryAccess, _ what: String, _ address: UInt64, _ count: Int
    ) throws(VirtioFault) -> UnsafeMutableRawPointer {
        do throws(GuestMemoryError) {
            guard let base = unsafe try memory.mapping(of: address, count: count).baseAddress else {
                throw GuestMemoryError(address: address, byteCount: count)
            }
            return unsafe base
        } catch {
            throw VirtioFault("the \(what) is not in memory", error)
        }
    }

    private var mask: UInt16 { layout.size - 1 }

    // MARK: Taking

    /// Whether the driver queued something that was not taken.
    public func hasWaiting() throws(VirtioFault) -> Bool {
        guard nextAvailable == seenAvailable else { return true }
        return try loadAvailableIndex() != nextAvailable
    }

    private func loadAvailableIndex() throws(VirtioFault) -> UInt16 {
        // Pairs with the driver's barrier before it raises the index: ring entries and descriptors are read after it.
        let index = unsafe cur_load_acquire_u16(available + 2)
        guard index &- nextAvailable <= layout.size else {
            throw VirtioFault(
                "queue \(self.index): the available index jumped from \(nextAvailable) to \(index), in a queue of "
                    + "\(layout.size) entries")
        }
        seenAvailable = index
        return index
    }

    /// The next chain, or nil when the driver queued no more.
    public func next() throws(VirtioFault) -> DescriptorChain? {
        guard try hasWaiting() else { return nil }
        let head = unsafe cur_load_u16(available + 4 + 2 * Int(nextAvailable & mask))
        let chain = try walk(from: head)
        nextAvailable &+= 1
        return chain
    }

    /// Leaves the last `count` taken chains to a later `next`. They must not have been answered.
    public func putBack(_ count: Int = 1) { nextAvailable &-= UInt16(truncatingIfNeeded: count) }

    /// Gathers a chain's buffers; each descriptor is read once.
    private func walk(from head: UInt16) throws(VirtioFault) -> DescriptorChain {
        var segments: [GuestSegment] = []
        var readableCount = 0
        var table = unsafe descriptors
        var tableCount = Int(layout.size)
        var isIndirect = false
        var steps = 0
        var position = Int(head)
        while true {
            guard position < tableCount else {
                throw VirtioFault("queue \(index): descriptor \(position) in a table of \(tableCount)")
            }
            steps += 1
            guard steps <= tableCount else {
                throw VirtioFault("queue \(index): a chain of descriptors that is a loop, or longer than its table")
            }
            let descriptor = unsafe cur_load_descriptor(table + RingLayout.descriptorByteCount * position)
            if descriptor.flags & DescriptorFlag.indirect != 0 {
                guard allowsIndirect, !isIndirect, descriptor.flags & DescriptorFlag.next == 0 else {
                    throw VirtioFault("queue \(index): an indirect descriptor where none may be")
                }
                unsafe (table, tableCount) = try indirectTable(descriptor)
                (isIndirect, steps, position) = (true, 0, 0)
                continue
            }
            let isWritable = descriptor.flags & DescriptorFlag.write != 0
            if !isWritable, readableCount < segments.count {
                throw VirtioFault("queue \(index): a readable buffer behind a writable one")
            }
            if descriptor.length > 0 {
                segments.append(try segment(descriptor))
                if !isWritable { readableCount += 1 }
            }
            guard descriptor.flags & DescriptorFlag.next != 0 else { break }
            position = Int(descriptor.next)
        }
        return DescriptorChain(head: head, segments: segments, readableCount: readableCount, memory: memory)
    }

    private func indirectTable(_ descriptor: cur_descriptor) throws(VirtioFault) -> (UnsafeRawPointer, Int) {
        let count = Int(descriptor.length) / RingLayout.descriptorByteCount
        guard count > 0, count <= Int(maximumSize), Int(descriptor.length) % RingLayout.descriptorByteCount == 0 else {
            throw VirtioFault(
                "queue \(index): an indirect table of \(descriptor.length) bytes; it must be a multiple of 16, and at "
                    + "most \(maximumSize) entries")
        }
        let base = try unsafe Self.map(memory, "indirect table", descriptor.address, Int(descriptor.length))
        return (UnsafeRawPointer(base), count)
    }

    private func segment(_ descriptor: cur_descriptor) throws(VirtioFault) -> GuestSegment {
        let count = Int(descriptor.length)
        let base = try unsafe Self.map(memory, "buffer", descriptor.address, count)
        return unsafe GuestSegment(address: descriptor.address, count: count, base: base)
    }

    // MARK: Answering

    /// Puts a chain into the used ring, `written` bytes of it being the device's. The driver sees it after `publish`.
    public func complete(_ head: UInt16, written: Int) {
        let offset = 4 + RingLayout.usedElementByteCount * Int(nextUsed & mask)
        unsafe used.storeBytes(of: UInt32(head).littleEndian, toByteOffset: offset, as: UInt32.self)
        unsafe used.storeBytes(
            of: UInt32(clamping: written).littleEndian, toByteOffset: offset + 4, as: UInt32.self)
        memory.markWritten(layout.device &+ UInt64(offset), count: RingLayout.usedElementByteCount)
        nextUsed &+= 1
    }

    /// Shows the driver what was completed, and interrupts it if it asked for that.
    public func publish() {
        guard nextUsed != publishedUsed else { return }
        let old = publishedUsed
        unsafe cur_store_release_u16(used + 2, nextUsed)
        memory.markWritten(layout.device &+ 2, count: 2)
        publishedUsed = nextUsed
        // The driver stores its wish, then looks at our index: we store the index, then look at its wish (2.7.7.2).
        cur_full_fence()
        let isWanted: Bool
        if usesEventIndex {
            let event = unsafe cur_load_u16(available + layout.usedEventOffset)
            isWanted = isFirstPublication || nextUsed &- event &- 1 < nextUsed &- old
        } else {
            isWanted = unsafe cur_load_u16(available) & 1 == 0
        }
        isFirstPublication = false
        if isWanted { notify() }
    }

    /// Asks the driver to tell of the next chain that it adds to those seen so far; true if one came meanwhile, so that
    /// it must be looked for again.
    public func rearm() throws(VirtioFault) -> Bool {
        let known = seenAvailable
        if usesEventIndex, armedEvent != known {
            armedEvent = known
            unsafe cur_store_release_u16(used + layout.availableEventOffset, known)
            memory.markWritten(layout.device &+ UInt64(layout.availableEventOffset), count: 2)
        }
        // The driver raises its index, then looks at our wish: we store the wish, then look at its index.
        cur_full_fence()
        return try loadAvailableIndex() != known
    }
}

enum DescriptorFlag {
    static let next: UInt16 = 1
    static let write: UInt16 = 2
    static let indirect: UInt16 = 4
}
