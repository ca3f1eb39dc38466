/// A source of random numbers (virtio 1.2, 5.4), filled by the host's getrandom(2).

import CLibURing

/// virtio-rng.
public final class EntropyDevice: VirtioBackend, @unchecked Sendable {
    public let deviceID: UInt32 = 4
    public let name = "virtio-rng"
    public let features: UInt64 = 0
    public let queueSizes: [UInt16] = [64]
    public let configuration: [UInt8] = []

    /// A longer request gets this much: a driver asks again for what is missing.
    public static let requestLimit = 64 << 10
    /// Requests answered before others get a chance at the device's lock.
    private static let roundLimit = 16

    private var queue: Virtqueue?
    private var hasMore = false

    public init() {}

    public func attach(_ host: BackendHost) {}
    public func activate(queues: [Virtqueue?], features: UInt64) { queue = queues[0] }
    public func deactivate(isReset: Bool) { (queue, hasMore) = (nil, false) }
    public var waiting: BackendWait { BackendWait(milliseconds: hasMore ? 0 : nil) }

    public func process() throws(VirtioFault) {
        guard let queue else { return }
        defer { queue.publish() }
        for _ in 0..<Self.roundLimit {
            guard let chain = try queue.next() else {
                hasMore = try queue.rearm()
                return
            }
            let bytes = randomBytes(min(chain.writableByteCount, Self.requestLimit))
            queue.complete(chain.head, written: try chain.write(bytes))
        }
        hasMore = true
    }

    private func randomBytes(_ count: Int) -> [UInt8] {
        unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            // Cannot fail with these arguments; if it did, the request would be answered with no bytes.
            guard let base = buffer.baseAddress, unsafe cur_random(base, count) == 0 else { return }
            initialized = count
        }
    }
}
