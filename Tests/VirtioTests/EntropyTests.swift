/// The entropy device, and with it what all queues do: event index, indirect tables, notifications, moves.

import Synchronization
import Testing
import VMState
import Virtio

struct EntropyTests {
    @Test(arguments: [
        0, Feature.eventIndex, Feature.indirectDescriptors, Feature.eventIndex | Feature.indirectDescriptors,
    ])
    func fillsBuffers(_ features: UInt64) throws {
        let driver = try GuestDriver(EntropyDevice())
        try driver.start(features: Feature.version1 | features, size: 16)
        // Indices wrap around the queue many times, and every wait is for an interrupt.
        for round in 0..<500 {
            let address = UInt64(0x100000 + round * 64)
            let isIndirect = features & Feature.indirectDescriptors != 0 && round % 2 == 0
            driver.add([.into(address, 32), .into(address + 32, 32)], indirect: isIndirect)
            driver.kickIfWanted()
            #expect(try driver.awaitByInterrupt().written == 64)
            #expect(driver.memory.read(address, 64).contains { $0 != 0 })
        }
        driver.checkMarks()
    }

    @Test func limitsLongRequests() throws {
        let driver = try GuestDriver(EntropyDevice())
        try driver.start()
        driver.add([.into(0x100000, 1 << 20)])
        driver.kick()
        #expect(try driver.await().written == EntropyDevice.requestLimit)
        driver.checkMarks()
    }

    /// The indices of both rings pass 65535.
    @Test func indicesWrap() throws {
        let driver = try GuestDriver(EntropyDevice())
        try driver.start(size: 64)
        for _ in 0..<1100 {
            for _ in 0..<60 { driver.add([.into(0x100000, 4)]) }
            driver.kickIfWanted(added: 60)
            for _ in 0..<60 { #expect(try driver.await().written == 4) }
        }
        #expect(!driver.needsReset)
    }

    /// A driver that waits for interrupts on one thread keeps getting them across moves, and nothing is lost or twice.
    @Test func movesInTheMiddle() throws {
        let driver = try GuestDriver(EntropyDevice())
        try driver.start(size: 64)
        var outstanding: Set<UInt16> = []
        for round in 0..<50 {
            for index in 0..<20 {
                let head = driver.add([.into(UInt64(0x100000 + index * 64), 64)])
                #expect(outstanding.insert(head).inserted)
            }
            // A kick before, after or while it moves.
            if round % 3 != 0 { driver.kick() }
            try driver.move(to: EntropyDevice())
            if round % 3 == 0 { driver.kick() }
            for _ in 0..<20 { #expect(outstanding.remove(try driver.awaitByInterrupt().head) != nil) }
            #expect(driver.take() == nil)
        }
        driver.checkMarks()
    }

    /// What was queued and not kicked for is found after a move: a kick may have come while the device stood still.
    @Test func standsStill() throws {
        let driver = try GuestDriver(EntropyDevice())
        try driver.start()
        driver.device.quiesce()
        driver.add([.into(0x100000, 64)])
        driver.kick()
        let state = try driver.device.save()
        #expect(driver.usedIndex == 0)
        #expect(try driver.device.save() == state)
        driver.device.unquiesce()
        #expect(try driver.await().written == 64)
        #expect(throws: VirtioError.self) { try driver.device.save() }
    }

    @Test func raisesItsLineAgain() throws {
        let driver = try GuestDriver(EntropyDevice())
        try driver.start()
        driver.add([.into(0x100000, 64)])
        driver.kick()
        _ = try driver.await()
        #expect(eventually { driver.line.level })
        try driver.move(to: EntropyDevice())
        #expect(driver.line.level)
        driver.write(MMIORegister.interruptAcknowledge, 1)
        #expect(!driver.line.level)
    }
}

/// The check on marks finds a device that goes around the tracked path.
struct TrackedPathTests {
    /// Writes through the mapping and tells nobody.
    private final class FaultyDevice: VirtioBackend, @unchecked Sendable {
        let deviceID: UInt32 = 4
        let name = "faulty"
        let features: UInt64 = 0
        let queueSizes: [UInt16] = [16]
        let configuration: [UInt8] = []
        private var queue: Virtqueue?

        func attach(_ host: BackendHost) {}
        func activate(queues: [Virtqueue?], features: UInt64) { queue = queues[0] }
        func deactivate(isReset: Bool) { queue = nil }
        func process() throws(VirtioFault) {
            guard let queue else { return }
            while let chain = try queue.next() {
                for part in chain.writable { part.base.storeBytes(of: 0x5A, as: UInt8.self) }
                queue.complete(chain.head, written: 1)
            }
            _ = try queue.rearm()
            queue.publish()
        }
    }

    @Test func findsADeviceThatBypassesIt() throws {
        let driver = try GuestDriver(FaultyDevice())
        try driver.start(size: 16)
        driver.add([.into(0x123456, 1)])
        driver.kick()
        _ = try driver.await()
        #expect(driver.memory.unmarkedChange() == 0x123000)
    }
}
