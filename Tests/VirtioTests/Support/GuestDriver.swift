/// A driver as a guest has one, over plain memory: it negotiates, builds chains, kicks, and takes used buffers.

import CLibURing
import Glibc
import Synchronization
import Testing
import Virtio

/// The interrupt line of a device under test.
final class Line: Sendable {
    private struct State {
        var level = false
        var rises = 0
    }
    private let state = Mutex(State())

    func set(_ level: Bool) {
        state.withLock {
            if level, !$0.level { $0.rises += 1 }
            $0.level = level
        }
    }

    var level: Bool { state.withLock { $0.level } }
    var rises: Int { state.withLock { $0.rises } }
}

/// Lines that a device logged.
final class Log: Sendable {
    private let lines = Mutex<[String]>([])
    func add(_ line: String) { lines.withLock { $0.append(line) } }
    var all: [String] { lines.withLock { $0 } }
}

/// Waits for something that another thread does. The deadline only ends a test that has failed.
func eventually(_ condition: () -> Bool) -> Bool {
    for _ in 0..<20_000 {
        if condition() { return true }
        usleep(1000)
    }
    return condition()
}

/// A buffer of a chain.
struct Buffer {
    var address: UInt64
    var count: UInt32
    var isWritable = false
    static func out(_ address: UInt64, _ count: Int) -> Buffer { Buffer(address: address, count: UInt32(count)) }
    static func into(_ address: UInt64, _ count: Int) -> Buffer {
        Buffer(address: address, count: UInt32(count), isWritable: true)
    }
}

/// One queue of the driver.
struct DriverQueue {
    let index: UInt32
    let size: UInt16
    let descriptors: UInt64
    let available: UInt64
    let used: UInt64
    var nextAvailable: UInt16 = 0
    var seenUsed: UInt16 = 0
    var nextDescriptor: UInt16 = 0
}

final class GuestDriver {
    let memory: GuestBuffer
    private(set) var device: VirtioDevice
    private(set) var line = Line()
    let log = Log()
    var queues: [DriverQueue] = []
    private(set) var features: UInt64 = 0
    private var nextFree: UInt64 = 0x10000

    init(_ backend: any VirtioBackend, memory: GuestBuffer = GuestBuffer()) throws {
        self.memory = memory
        let (line, log) = (self.line, self.log)
        device = try VirtioDevice(
            backend: backend, memory: memory, setInterrupt: { line.set($0) }, log: { log.add($0) })
    }

    /// The same guest goes on with another device, over the same memory: a move.
    func move(to backend: any VirtioBackend) throws {
        device.quiesce()
        let state = try device.save()
        let line = Line()
        let log = self.log
        let moved = try VirtioDevice(
            backend: backend, memory: memory, setInterrupt: { line.set($0) }, log: { log.add($0) })
        try moved.load(state, version: VirtioDevice.stateVersion)
        (device, self.line) = (moved, line)
        device.unquiesce()
    }

    // MARK: Registers

    func read(_ register: UInt64) -> UInt32 { UInt32(device.readRegister(offset: register, size: 4)) }
    func write(_ register: UInt64, _ value: UInt32) {
        device.writeRegister(offset: register, size: 4, value: UInt64(value))
    }
    var status: UInt8 { UInt8(read(MMIORegister.status)) }
    var needsReset: Bool { status & DeviceStatus.needsReset != 0 }

    var offered: UInt64 {
        write(MMIORegister.deviceFeaturesSelect, 0)
        let low = UInt64(read(MMIORegister.deviceFeatures))
        write(MMIORegister.deviceFeaturesSelect, 1)
        return low | UInt64(read(MMIORegister.deviceFeatures)) << 32
    }

    /// Everything up to FEATURES_OK; true if the device agreed.
    func negotiate(_ wanted: UInt64) -> Bool {
        write(MMIORegister.status, 0)
        write(MMIORegister.status, 1)
        write(MMIORegister.status, 3)
        write(MMIORegister.driverFeaturesSelect, 0)
        write(MMIORegister.driverFeatures, UInt32(truncatingIfNeeded: wanted))
        write(MMIORegister.driverFeaturesSelect, 1)
        write(MMIORegister.driverFeatures, UInt32(wanted >> 32))
        write(MMIORegister.status, 11)
        features = wanted
        return status & DeviceStatus.featuresOK != 0
    }

    func allocate(_ count: Int, alignment: UInt64 = 16) -> UInt64 {
        let address = (nextFree + alignment - 1) / alignment * alignment
        nextFree = address + UInt64(count)
        return address
    }

    @discardableResult
    func addQueue(_ index: UInt32, size: UInt16) -> Int {
        let queue = DriverQueue(
            index: index, size: size, descriptors: allocate(16 * Int(size), alignment: 4096),
            available: allocate(6 + 2 * Int(size), alignment: 4096),
            used: allocate(6 + 8 * Int(size), alignment: 4096))
        configure(queue)
        queues.append(queue)
        return queues.count - 1
    }

    func configure(_ queue: DriverQueue) {
        write(MMIORegister.queueSelect, queue.index)
        write(MMIORegister.queueSize, UInt32(queue.size))
        write(MMIORegister.queueDescriptorsLow, UInt32(truncatingIfNeeded: queue.descriptors))
        write(MMIORegister.queueDescriptorsHigh, UInt32(queue.descriptors >> 32))
        write(MMIORegister.queueDriverLow, UInt32(truncatingIfNeeded: queue.available))
        write(MMIORegister.queueDriverHigh, UInt32(queue.available >> 32))
        write(MMIORegister.queueDeviceLow, UInt32(truncatingIfNeeded: queue.used))
        write(MMIORegister.queueDeviceHigh, UInt32(queue.used >> 32))
        write(MMIORegister.queueReady, 1)
    }

    /// A whole start: all features that are offered unless told otherwise, all queues.
    func start(features wanted: UInt64? = nil, size: UInt16 = 64, queueCount: Int = 1) throws {
        device.unquiesce()
        let wanted = wanted ?? offered
        try #require(negotiate(wanted))
        queues = []
        for index in 0..<queueCount { addQueue(UInt32(index), size: size) }
        write(MMIORegister.status, 15)
        try #require(status == 15)
    }

    // MARK: Queues

    private var usesEventIndex: Bool { features & Feature.eventIndex != 0 }

    func descriptor(_ queue: Int, _ index: UInt16, _ address: UInt64, _ count: UInt32, _ flags: UInt16, _ next: UInt16)
    {
        writeDescriptor(queues[queue].descriptors + 16 * UInt64(index), address, count, flags, next)
    }

    func writeDescriptor(_ at: UInt64, _ address: UInt64, _ count: UInt32, _ flags: UInt16, _ next: UInt16) {
        memory.write(address, at: at)
        memory.write(count, at: at + 8)
        memory.write(flags, at: at + 12)
        memory.write(next, at: at + 14)
    }

    @discardableResult
    func add(_ buffers: [Buffer], indirect: Bool = false) -> UInt16 { add(0, buffers, indirect: indirect) }

    /// Writes a chain's descriptors and makes it available, without a kick. Returns the head.
    @discardableResult
    func add(_ queue: Int, _ buffers: [Buffer], indirect: Bool = false) -> UInt16 {
        let mask = queues[queue].size - 1
        let head = queues[queue].nextDescriptor & mask
        if indirect {
            let table = allocate(16 * buffers.count)
            for (index, buffer) in buffers.enumerated() {
                let isLast = index == buffers.count - 1
                writeDescriptor(
                    table + 16 * UInt64(index), buffer.address, buffer.count,
                    (buffer.isWritable ? 2 : 0) | (isLast ? 0 : 1), isLast ? 0 : UInt16(index + 1))
            }
            descriptor(queue, head, table, UInt32(16 * buffers.count), 4, 0)
            queues[queue].nextDescriptor &+= 1
        } else {
            for (index, buffer) in buffers.enumerated() {
                let isLast = index == buffers.count - 1
                let here = queues[queue].nextDescriptor & mask
                queues[queue].nextDescriptor &+= 1
                descriptor(
                    queue, here, buffer.address, buffer.count, (buffer.isWritable ? 2 : 0) | (isLast ? 0 : 1),
                    isLast ? 0 : (here &+ 1) & mask)
            }
        }
        offer(queue, head)
        return head
    }

    /// Makes a head available.
    func offer(_ queue: Int, _ head: UInt16) {
        let next = queues[queue].nextAvailable
        memory.write(head, at: queues[queue].available + 4 + 2 * UInt64(next & (queues[queue].size - 1)))
        queues[queue].nextAvailable = next &+ 1
        setAvailableIndex(queue, next &+ 1)
    }

    func setAvailableIndex(_ queue: Int, _ index: UInt16) {
        cur_full_fence()
        memory.write(index, at: queues[queue].available + 2)
        cur_full_fence()
    }

    func kick(_ queue: Int = 0) { write(MMIORegister.queueNotify, queues[queue].index) }

    /// Kicks as a driver does: only when the device asked for it.
    func kickIfWanted(_ queue: Int = 0, added: UInt16 = 1) {
        cur_full_fence()
        if usesEventIndex {
            let event = memory.read(UInt16.self, at: queues[queue].used + 4 + 8 * UInt64(queues[queue].size))
            let new = queues[queue].nextAvailable
            if new &- event &- 1 < added { kick(queue) }
        } else if memory.read(UInt16.self, at: queues[queue].used) & 1 == 0 {
            kick(queue)
        }
    }

    var usedIndex: UInt16 { usedIndex(of: 0) }
    func usedIndex(of queue: Int) -> UInt16 {
        defer { cur_full_fence() }
        return memory.read(UInt16.self, at: queues[queue].used + 2)
    }

    /// Takes a used element if there is one.
    func take(_ queue: Int = 0) -> (head: UInt16, written: Int)? {
        guard usedIndex(of: queue) != queues[queue].seenUsed else { return nil }
        let at = queues[queue].used + 4 + 8 * UInt64(queues[queue].seenUsed & (queues[queue].size - 1))
        queues[queue].seenUsed &+= 1
        return (UInt16(memory.read(UInt32.self, at: at)), Int(memory.read(UInt32.self, at: at + 4)))
    }

    /// Waits for a used element.
    func await(_ queue: Int = 0) throws -> (head: UInt16, written: Int) {
        try #require(eventually { usedIndex(of: queue) != queues[queue].seenUsed }, "\(log.all)")
        return try #require(take(queue))
    }

    /// As `await`, but looks only after an interrupt, as a real driver does: a lost one is found.
    func awaitByInterrupt(_ queue: Int = 0) throws -> (head: UInt16, written: Int) {
        while true {
            if usesEventIndex {
                memory.write(
                    queues[queue].seenUsed, at: queues[queue].available + 4 + 2 * UInt64(queues[queue].size))
                cur_full_fence()
            }
            if let taken = take(queue) { return taken }
            try #require(eventually { line.level }, "no interrupt: \(log.all)")
            write(MMIORegister.interruptAcknowledge, read(MMIORegister.interruptStatus))
        }
    }

    /// Fails the test if a device changed memory without marking it.
    func checkMarks(sourceLocation: SourceLocation = #_sourceLocation) {
        device.quiesce()
        let page = memory.unmarkedChange()
        #expect(page == nil, "a page was changed and not marked", sourceLocation: sourceLocation)
        device.unquiesce()
    }
}
