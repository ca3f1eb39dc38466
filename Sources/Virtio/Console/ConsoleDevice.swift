/// A console with one port (virtio 1.2, 5.3): what a guest prints goes to a callback, what is typed waits for the guest.

import Synchronization
import VMState

/// virtio-console.
public final class ConsoleDevice: VirtioBackend, @unchecked Sendable {
    public let deviceID: UInt32 = 3
    public let name = "virtio-console"
    public let features: UInt64 = 0
    public let queueSizes: [UInt16] = [64, 64]
    /// Columns, rows, number of ports, emergency write: without features none of them counts.
    public let configuration = [UInt8](repeating: 0, count: 12)

    /// Input that waits for the guest. More is refused: whoever types faster than the guest reads must wait.
    public static let backlogLimit = 64 << 10
    /// A longer request is a fault of the driver: Linux sends a page at most.
    static let outputLimit = 1 << 20
    private static let roundLimit = 64

    private let output: @Sendable ([UInt8]) -> Void
    private let input = Mutex<[UInt8]>([])

    // Under the device's work lock.
    private var host: BackendHost?
    private var receiveQueue: Virtqueue?
    private var transmitQueue: Virtqueue?
    private var hasMore = false

    /// `output` is called on the device's thread, or on one that stops the device; it must neither block nor call the
    /// device.
    public init(output: @escaping @Sendable ([UInt8]) -> Void) { self.output = output }

    /// Passes input to the guest; returns how many bytes were taken. Any thread.
    public func receive(_ bytes: [UInt8]) -> Int {
        let taken = input.withLock { backlog in
            let taken = min(bytes.count, Self.backlogLimit - backlog.count)
            backlog += bytes.prefix(taken)
            return taken
        }
        host?.wake()
        return taken
    }

    public func attach(_ host: BackendHost) { self.host = host }
    public func activate(queues: [Virtqueue?], features: UInt64) {
        (receiveQueue, transmitQueue) = (queues[0], queues[1])
    }
    public func deactivate(isReset: Bool) { (receiveQueue, transmitQueue, hasMore) = (nil, nil, false) }
    public var waiting: BackendWait { BackendWait(milliseconds: hasMore ? 0 : nil) }

    public func process() throws(VirtioFault) {
        hasMore = false
        if let transmitQueue { try transmit(transmitQueue) }
        if let receiveQueue { try deliver(receiveQueue) }
    }

    private func transmit(_ queue: Virtqueue) throws(VirtioFault) {
        defer { queue.publish() }
        for _ in 0..<Self.roundLimit {
            guard let chain = try queue.next() else {
                hasMore = try queue.rearm() || hasMore
                return
            }
            guard chain.readableByteCount <= Self.outputLimit else {
                throw VirtioFault("output of \(chain.readableByteCount) bytes at once, more than \(Self.outputLimit)")
            }
            let bytes = chain.read(count: chain.readableByteCount)
            if !bytes.isEmpty { output(bytes) }
            queue.complete(chain.head, written: 0)
        }
        hasMore = true
    }

    private func deliver(_ queue: Virtqueue) throws(VirtioFault) {
        defer { queue.publish() }
        for _ in 0..<Self.roundLimit {
            let waiting = input.withLock { $0 }
            // Buffers are left in the ring until there is something for them.
            guard !waiting.isEmpty else { return }
            guard let chain = try queue.next() else {
                hasMore = try queue.rearm() || hasMore
                return
            }
            let count = min(waiting.count, chain.writableByteCount)
            let written = try chain.write(Array(waiting.prefix(count)))
            input.withLock { $0.removeFirst(min(written, $0.count)) }
            queue.complete(chain.head, written: written)
        }
        hasMore = true
    }

    // MARK: State

    public func save(configuration: [UInt8]) -> VirtioState.Device { .console(input: input.withLock { $0 }) }

    public func load(_ state: VirtioState.Device, configuration: inout [UInt8]) throws(VirtioFault) {
        switch state {
        // Protobuf leaves a message of defaults out when a writer does not insist.
        case .none: input.withLock { $0 = [] }
        case .console(let saved):
            guard saved.count <= Self.backlogLimit else { throw VirtioFault("\(saved.count) bytes of input") }
            input.withLock { $0 = saved }
        default: throw VirtioFault("a state of another kind of device")
        }
    }
}
