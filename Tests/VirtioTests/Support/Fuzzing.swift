/// A driver that does whatever a string of bytes says: the target of the random test here, and of fuzz programs.

import Glibc
import Virtio

/// Numbers out of bytes; zeros when they are used up.
struct FuzzInput {
    private let bytes: [UInt8]
    private var position = 0

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var isAtEnd: Bool { position >= bytes.count }

    mutating func next<Number: FixedWidthInteger>(_ type: Number.Type = Number.self) -> Number {
        var number: Number = 0
        for _ in 0..<MemoryLayout<Number>.size {
            number = number << 8 | Number(truncatingIfNeeded: isAtEnd ? 0 : bytes[position])
            position += 1
        }
        return number
    }

    mutating func below(_ limit: Int) -> Int { Int(next(UInt16.self)) % limit }
    mutating func pick<Element>(_ elements: [Element]) -> Element { elements[below(elements.count)] }

    /// Mostly something near what makes sense: in RAM, small, aligned.
    mutating func address() -> UInt64 {
        switch below(8) {
        case 0: return next()
        case 1: return pick([0x80_0000, 0x7F_F000, 0x7F_FFFF, .max, .max - 4095, 0x1_0000_0000, 0x1_0010_0000])
        default: return UInt64(next(UInt16.self)) * 64
        }
    }

    mutating func length() -> UInt32 {
        switch below(8) {
        case 0: return next()
        case 1: return pick([0, 1, 15, 16, 17, 512, 4096, 1 << 20, .max])
        default: return UInt32(next(UInt16.self) & 0x3FF)
        }
    }
}

/// Plays a driver on a device made by `backend`, over fresh memory, moving the device now and then. It must come back,
/// with all changes to memory marked; returns the address of a page where that is not so.
func fuzzDevice(_ bytes: [UInt8], backend: () throws -> any VirtioBackend) throws -> UInt64? {
    var input = FuzzInput(bytes)
    let driver = try GuestDriver(try backend())
    let queueCount = 4
    driver.device.unquiesce()
    while !input.isAtEnd {
        switch input.below(16) {
        case 0, 1:
            let offset = input.below(4) == 0 ? input.next(UInt64.self) : UInt64(input.below(0x140))
            driver.device.writeRegister(
                offset: offset, size: input.pick([4, 4, 4, 1, 2, 8, 3]), value: input.next())
            _ = driver.device.readRegister(offset: offset, size: input.pick([4, 4, 4, 1, 2, 8, 3]))
        case 2:
            driver.write(MMIORegister.status, input.pick([0, 1, 3, 11, 15, 0x80, 0xFF]))
        case 3, 4:
            // A proper start, so that the rest reaches the rings.
            let kept = input.below(3) == 0 ? input.next(UInt64.self) | Feature.version1 : .max
            _ = driver.negotiate(driver.offered & kept)
            driver.queues = []
            for index in 0..<queueCount {
                let size = UInt16(1) << UInt16(input.below(9))
                driver.queues.append(
                    DriverQueue(
                        index: UInt32(index), size: size, descriptors: UInt64(0x10000 + index * 0x4000),
                        available: UInt64(0x12000 + index * 0x4000), used: UInt64(0x13000 + index * 0x4000)))
                driver.configure(driver.queues[index])
                driver.memory.write(UInt16(0), at: driver.queues[index].available + 2)
            }
            driver.write(MMIORegister.status, 15)
        case 5...10:
            guard !driver.queues.isEmpty else { continue }
            let queue = input.below(driver.queues.count)
            for _ in 0..<1 + input.below(4) {
                // A header that disks and cards find meaningful.
                let at = UInt64(input.next(UInt16.self)) * 16
                driver.memory.write(UInt32(input.below(16)), at: at)
                driver.memory.write(UInt64(input.next(UInt16.self)), at: at + 8)
                let here = UInt16(input.below(Int(driver.queues[queue].size) + (input.below(16) == 0 ? 2 : 0)))
                driver.descriptor(queue, here & (driver.queues[queue].size - 1), at, 16, 1, here &+ 1)
                driver.descriptor(
                    queue, (here &+ 1) & (driver.queues[queue].size - 1), input.address(), input.length(),
                    input.pick([0, 1, 2, 3, 4, 6, 7, 2]), UInt16(input.below(300)))
                driver.offer(queue, input.below(16) == 0 ? input.next() : here)
            }
            driver.kick(queue)
        case 11:
            guard !driver.queues.isEmpty else { continue }
            // Random bytes over the rings.
            driver.memory.write((0..<64).map { _ in input.next() }, at: 0x10000 + UInt64(input.below(0x10000)))
            driver.kick(input.below(driver.queues.count))
        case 12:
            guard !driver.queues.isEmpty else { continue }
            driver.setAvailableIndex(input.below(driver.queues.count), input.next())
        case 13:
            driver.write(MMIORegister.queueSelect, UInt32(input.below(6)))
            driver.write(MMIORegister.queueReady, UInt32(input.below(2)))
        case 14:
            driver.device.quiesce()
            if let page = driver.memory.unmarkedChange() { return page }
            driver.device.unquiesce()
        default: try driver.move(to: try backend())
        }
    }
    driver.device.quiesce()
    return driver.memory.unmarkedChange()
}

/// A small generator with a seed (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var value = state
        value = (value ^ value >> 30) &* 0xBF58_476D_1CE4_E5B9
        value = (value ^ value >> 27) &* 0x94D0_49BB_1331_11EB
        return value ^ value >> 31
    }
}
