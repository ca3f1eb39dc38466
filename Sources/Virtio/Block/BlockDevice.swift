/// A disk (virtio 1.2, 5.2): a raw file or block device, its requests done in parallel and straight from and into guest
/// memory.

import CLibURing
import Glibc

/// virtio-blk.
public final class BlockDevice: VirtioBackend, @unchecked Sendable {
    /// Feature bits.
    public enum Features {
        public static let sizeMax: UInt64 = 1 << 1
        public static let segMax: UInt64 = 1 << 2
        public static let readOnly: UInt64 = 1 << 5
        public static let blockSize: UInt64 = 1 << 6
        public static let flush: UInt64 = 1 << 9
        public static let discard: UInt64 = 1 << 13
        public static let writeZeroes: UInt64 = 1 << 14
    }

    public let deviceID: UInt32 = 2
    public let name = "virtio-blk"
    public let features: UInt64
    public let queueSizes: [UInt16] = [256]
    public let configuration: [UInt8]

    /// Requests under way at once.
    public static let depth = 128
    /// One buffer's longest length, and the number of them: so a request is at most 254 MiB.
    static let segmentByteLimit = 1 << 20
    static let segmentLimit = 254
    /// 1 GiB for discard and write-zeroes.
    static let rangeSectorLimit: UInt32 = 1 << 21

    /// What it is on. Between two hosts, `synchronize` and the locks are for whoever moves the VM.
    public let file: BlockFile
    private let serial: [UInt8]
    private let allowsRing: Bool
    private let givenEngine: (any BlockEngine)?

    // Under the device's work lock.
    private var host: BackendHost?
    private var engine: (any BlockEngine)?
    private var queue: Virtqueue?
    private var isWriteThrough = false
    private var slots: [BlockRequest] = []
    private var free: [Int] = []
    private var hasMore = false

    /// `serial` is what the driver reads as the disk's id: 20 bytes of it. `allowsRing` false keeps off io_uring.
    public convenience init(file: BlockFile, serial: String = "", allowsRing: Bool = true) {
        self.init(file: file, serial: serial, allowsRing: allowsRing, engine: nil)
    }

    /// With an engine of the caller's: tests let I/O fail and wait.
    package init(file: BlockFile, serial: String, allowsRing: Bool, engine: (any BlockEngine)?) {
        self.file = file
        self.serial = Array(serial.utf8.prefix(BlockProtocol.idByteCount))
        self.allowsRing = allowsRing
        givenEngine = engine
        var features = Features.sizeMax | Features.segMax | Features.blockSize | Features.flush
        features |= file.isReadOnly ? Features.readOnly : Features.discard | Features.writeZeroes
        self.features = features
        configuration = Self.configuration(of: file)
    }

    /// The configuration space (5.2.4).
    private static func configuration(of file: BlockFile) -> [UInt8] {
        var space = ConfigurationSpace(byteCount: 60)
        space.set(file.sectorCount, at: 0)
        space.set(UInt32(segmentByteLimit), at: 8)
        space.set(UInt32(segmentLimit), at: 12)
        space.set(UInt32(BlockFile.sectorByteCount), at: 20)
        space.set(UInt16(1), at: 34)  // queues
        if !file.isReadOnly {
            space.set(rangeSectorLimit, at: 36)
            space.set(UInt32(1), at: 40)
            space.set(UInt32(1), at: 44)
            space.set(rangeSectorLimit, at: 48)
            space.set(UInt32(1), at: 52)
            space.set(UInt8(1), at: 56)  // write-zeroes may give space back
        }
        return space.bytes
    }

    public func attach(_ host: BackendHost) {
        self.host = host
        slots = (0..<Self.depth).map { BlockRequest(tag: UInt64($0)) }
        free = Array((0..<Self.depth).reversed())
        guard allowsRing, givenEngine == nil else {
            engine = givenEngine ?? SynchronousEngine()
            return
        }
        let (ring, error) = RingEngine.make(depth: Self.depth)
        if let ring {
            engine = ring
        } else {
            engine = SynchronousEngine()
            host.log("no io_uring on this host (\(errorText(error))): \(file.path) is read and written call by call")
        }
    }

    public func activate(queues: [Virtqueue?], features: UInt64) {
        queue = queues[0]
        isWriteThrough = features & Features.flush == 0
    }

    public func deactivate(isReset: Bool) { (queue, hasMore) = (nil, false) }

    public var waiting: BackendWait {
        let unsubmitted = engine?.hasUnsubmitted ?? false
        return BackendWait(
            engine?.eventDescriptor.map { [.init($0, events: CShort(POLLIN))] } ?? [],
            milliseconds: hasMore ? 0 : unsubmitted ? 1 : nil)
    }

    // MARK: Rounds

    public func process() throws(VirtioFault) {
        guard let queue, let engine else { return }
        defer { queue.publish() }
        settle(engine.take(wait: false), queue, engine)
        hasMore = false
        // Bounded, so that others get a chance at the device's lock.
        var budget = Self.depth
        var sawEnd = false
        while !sawEnd, budget > 0, !free.isEmpty {
            budget -= 1
            if let chain = try queue.next() {
                try begin(chain, queue, engine)
            } else {
                sawEnd = try !queue.rearm()
            }
        }
        engine.submit()
        // Operations of the synchronous engine are done by now.
        settle(engine.take(wait: false), queue, engine)
        // With all slots in use, the end of one of them calls again; not so if it was settled just now.
        hasMore = !sawEnd && !free.isEmpty
    }

    public func drain() {
        guard let queue, let engine else { return }
        while free.count < slots.count { settle(engine.take(wait: true), queue, engine) }
        queue.publish()
    }

    private func settle(_ results: [(tag: UInt64, result: Int)], _ queue: Virtqueue, _ engine: any BlockEngine) {
        for (tag, result) in results {
            guard let index = Int(exactly: tag), index < slots.count, let chain = slots[index].chain else { continue }
            let request = slots[index]
            guard let answer = request.advance(result, on: file, isWriteThrough: isWriteThrough) else {
                engine.start(request.operation, tag: tag)
                continue
            }
            if answer != BlockProtocol.ok {
                host?.logOnce(
                    "\(result)",
                    "a request on \(file.path) failed: "
                        + (result < 0 ? errorText(CInt(clamping: -result)) : "the file is shorter than it was"))
            }
            if case .read = request.work {
                // Before the used ring shows it; also after an error, which may have come half-way.
                for part in chain.writable { host?.memory.markWritten(part.address, count: part.count) }
            }
            request.end()
            free.append(index)
            finish(chain, answer, queue)
        }
        engine.submit()
    }

    /// The answer is the last writable byte, whatever the buffers' shape (5.2.6).
    private func finish(_ chain: DescriptorChain, _ answer: UInt8, _ queue: Virtqueue) {
        let last = chain.writableByteCount - 1
        // It was RAM when the chain was taken, and RAM does not go away.
        _ = try? chain.write([answer], at: last)
        queue.complete(chain.head, written: answer == BlockProtocol.ok ? last + 1 : 1)
    }

    // MARK: Requests

    private func begin(_ chain: DescriptorChain, _ queue: Virtqueue, _ engine: any BlockEngine) throws(VirtioFault) {
        let header = chain.read(count: BlockProtocol.headerByteCount)
        guard header.count == BlockProtocol.headerByteCount, chain.writableByteCount > 0 else {
            throw VirtioFault("a request without a header of 16 bytes, or without a byte for the answer")
        }
        let type = header.littleEndian32(at: 0)
        let sector = header.littleEndian64(at: 8)
        switch type {
        case BlockProtocol.read:
            transfer(chain, isWrite: false, sector, queue, engine)
        case BlockProtocol.write where !file.isReadOnly:
            transfer(chain, isWrite: true, sector, queue, engine)
        case BlockProtocol.flush:
            guard let request = takeSlot() else { return }
            request.beginFlush(chain, on: file)
            engine.start(request.operation, tag: request.tag)
        case BlockProtocol.getID:
            let room = min(chain.writableByteCount - 1, BlockProtocol.idByteCount)
            let id = serial + [UInt8](repeating: 0, count: BlockProtocol.idByteCount - serial.count)
            try chain.write(Array(id.prefix(room)))
            finish(chain, room < BlockProtocol.idByteCount ? BlockProtocol.ioError : BlockProtocol.ok, queue)
        case BlockProtocol.discard where !file.isReadOnly, BlockProtocol.writeZeroes where !file.isReadOnly:
            allocate(chain, type, queue, engine)
        case BlockProtocol.write, BlockProtocol.discard, BlockProtocol.writeZeroes:
            finish(chain, BlockProtocol.ioError, queue)
        default: finish(chain, BlockProtocol.unsupported, queue)
        }
    }

    private func takeSlot() -> BlockRequest? { free.popLast().map { slots[$0] } }

    /// Where in the file a range of sectors is, if the disk has it.
    private func offset(sector: UInt64, sectorCount: UInt64) -> UInt64? {
        guard sector <= file.sectorCount, sectorCount <= file.sectorCount - sector else { return nil }
        return sector * BlockFile.sectorByteCount
    }

    private func transfer(
        _ chain: DescriptorChain, isWrite: Bool, _ sector: UInt64, _ queue: Virtqueue, _ engine: any BlockEngine
    ) {
        let header = BlockProtocol.headerByteCount
        let byteCount = isWrite ? chain.readableByteCount - header : chain.writableByteCount - 1
        let segments =
            isWrite
            ? chain.readableSlice(from: header, count: byteCount) : chain.writableSlice(from: 0, count: byteCount)
        let sectorByteCount = Int(BlockFile.sectorByteCount)
        guard byteCount % sectorByteCount == 0, byteCount <= Self.segmentLimit * Self.segmentByteLimit,
            let offset = offset(sector: sector, sectorCount: UInt64(byteCount / sectorByteCount))
        else { return finish(chain, BlockProtocol.ioError, queue) }
        guard byteCount > 0 else { return finish(chain, BlockProtocol.ok, queue) }
        guard let request = takeSlot() else { return }
        request.beginTransfer(chain, isWrite: isWrite, segments: segments, offset: offset, on: file)
        engine.start(request.operation, tag: request.tag)
    }

    /// Discard and write-zeroes: one range, as the configuration space says (5.2.6.1).
    private func allocate(_ chain: DescriptorChain, _ type: UInt32, _ queue: Virtqueue, _ engine: any BlockEngine) {
        let range = chain.read(from: BlockProtocol.headerByteCount, count: BlockProtocol.rangeByteCount)
        guard range.count == BlockProtocol.rangeByteCount,
            chain.readableByteCount == BlockProtocol.headerByteCount + BlockProtocol.rangeByteCount
        else { return finish(chain, BlockProtocol.ioError, queue) }
        let sectorCount = range.littleEndian32(at: 8)
        let flags = range.littleEndian32(at: 12)
        let allowed = type == BlockProtocol.writeZeroes ? BlockProtocol.unmap : 0
        guard flags & ~allowed == 0 else { return finish(chain, BlockProtocol.unsupported, queue) }
        guard sectorCount <= Self.rangeSectorLimit,
            let offset = offset(sector: range.littleEndian64(at: 0), sectorCount: UInt64(sectorCount))
        else { return finish(chain, BlockProtocol.ioError, queue) }
        guard sectorCount > 0 else { return finish(chain, BlockProtocol.ok, queue) }
        let modes: [CInt]
        if type == BlockProtocol.discard {
            modes = [CUR_PUNCH_HOLE]
        } else {
            // A hole reads as zeros, but only with the flag may the space be given back.
            modes = flags & BlockProtocol.unmap != 0 ? [CUR_PUNCH_HOLE, CUR_ZERO_RANGE] : [CUR_ZERO_RANGE]
        }
        guard let request = takeSlot() else { return }
        request.beginAllocation(
            chain, modes: modes, offset: offset, byteCount: Int(sectorCount) * Int(BlockFile.sectorByteCount), on: file)
        engine.start(request.operation, tag: request.tag)
    }
}
