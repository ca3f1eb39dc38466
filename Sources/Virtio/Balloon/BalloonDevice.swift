/// The memory balloon (virtio 1.2, 5.5) with free page reporting: memory that the guest does without goes back to the
/// host, and travels as holes.

import Units
import VMState

/// virtio-balloon.
public final class BalloonDevice: VirtioBackend, @unchecked Sendable {
    /// Feature bits.
    public enum Features {
        /// The guest may take pages back when it is out of memory.
        public static let deflateOnOutOfMemory: UInt64 = 1 << 2
        public static let reporting: UInt64 = 1 << 5
    }

    public let deviceID: UInt32 = 5
    public let name = "virtio-balloon"
    public let features = Features.deflateOnOutOfMemory | Features.reporting
    /// Inflate, deflate, reporting: queues of features that are not offered take no number, as drivers have it.
    public let queueSizes: [UInt16] = [128, 128, 128]
    /// The target and the actual number of pages.
    public let configuration = [UInt8](repeating: 0, count: 8)

    private static let targetOffset = 0
    private static let actualOffset = 4
    /// Page numbers in one request; Linux sends 256.
    private static let pageLimit = 16 << 10
    private static let roundLimit = 8

    // Under the device's work lock, except the host, which never changes.
    private var host: BackendHost?
    private var queues: [Virtqueue?] = []
    private var hasMore = false

    public init() {}

    /// How many pages of 4 KiB the guest is to give up. Any thread.
    public func setTarget(pages: UInt32) {
        host?.updateConfiguration { $0.setLittleEndian(pages, at: Self.targetOffset) }
    }

    /// What was asked for last.
    public var targetPages: UInt32 { host?.configuration.littleEndian32(at: Self.targetOffset) ?? 0 }
    /// What the guest says that it gave up.
    public var actualPages: UInt32 { host?.configuration.littleEndian32(at: Self.actualOffset) ?? 0 }

    public func attach(_ host: BackendHost) { self.host = host }
    public func activate(queues: [Virtqueue?], features: UInt64) { self.queues = queues }
    public func deactivate(isReset: Bool) { (queues, hasMore) = ([], false) }
    public var waiting: BackendWait { BackendWait(milliseconds: hasMore ? 0 : nil) }

    /// The driver sets `actual`, and nothing else.
    public func writeConfiguration(offset: Int, bytes: [UInt8], to configuration: inout [UInt8]) {
        for (index, byte) in bytes.enumerated() {
            let place = offset + index
            if place >= Self.actualOffset, place < configuration.count { configuration[place] = byte }
        }
    }

    public func process() throws(VirtioFault) {
        hasMore = false
        for (index, queue) in queues.enumerated() {
            guard let queue else { continue }
            try process(queue, index)
        }
    }

    private func process(_ queue: Virtqueue, _ index: Int) throws(VirtioFault) {
        defer { queue.publish() }
        for _ in 0..<Self.roundLimit {
            guard let chain = try queue.next() else {
                hasMore = try queue.rearm() || hasMore
                return
            }
            switch index {
            case 0: try inflate(chain)
            // The pages that come back are zeros until the guest writes them: nothing to do.
            case 1: break
            default: report(chain)
            }
            queue.complete(chain.head, written: 0)
        }
        hasMore = true
    }

    /// Page numbers of 32 bits, each of a page of 4 KiB, whatever the guest's page size is.
    private func inflate(_ chain: DescriptorChain) throws(VirtioFault) {
        guard chain.readableByteCount <= 4 * Self.pageLimit else {
            throw VirtioFault("\(chain.readableByteCount / 4) pages at once, more than \(Self.pageLimit)")
        }
        let numbers = chain.read(count: chain.readableByteCount)
        // Neighbours are given back in one call; Linux hands them out downwards as often as upwards.
        var run: Range<UInt64>?
        for offset in stride(from: 0, to: numbers.count - numbers.count % 4, by: 4) {
            let page = UInt64(numbers.littleEndian32(at: offset))
            if let known = run, page == known.upperBound {
                run = known.lowerBound..<page + 1
            } else if let known = run, page + 1 == known.lowerBound {
                run = page..<known.upperBound
            } else {
                discard(run)
                run = page..<page + 1
            }
        }
        discard(run)
    }

    private func discard(_ pages: Range<UInt64>?) {
        guard let pages else { return }
        discard(pages.lowerBound * UInt64(pageByteCount), count: pages.count * pageByteCount)
    }

    /// Free pages: each writable buffer is a range of them. The contents are the device's to change (5.5.6.7).
    private func report(_ chain: DescriptorChain) {
        let page = UInt64(pageByteCount)
        for segment in chain.writable {
            // Only whole pages; what lies beside them is not free.
            let first = (segment.address + page - 1) / page * page
            let end = (segment.address + UInt64(segment.count)) / page * page
            if first < end { discard(first, count: Int(end - first)) }
        }
    }

    private func discard(_ address: UInt64, count: Int) {
        guard let host else { return }
        do throws(GuestMemoryError) {
            try host.memory.discard(address, count: count)
        } catch {
            host.logOnce("discard", "the driver gave up what is not memory: \(error)")
        }
    }

    // MARK: State

    public func save(configuration: [UInt8]) -> VirtioState.Device {
        .balloon(
            targetPages: configuration.littleEndian32(at: Self.targetOffset),
            actualPages: configuration.littleEndian32(at: Self.actualOffset))
    }

    public func load(_ state: VirtioState.Device, configuration: inout [UInt8]) throws(VirtioFault) {
        switch state {
        case .none: break
        case .balloon(let target, let actual):
            configuration.setLittleEndian(target, at: Self.targetOffset)
            configuration.setLittleEndian(actual, at: Self.actualOffset)
        default: throw VirtioFault("a state of another kind of device")
        }
    }
}
