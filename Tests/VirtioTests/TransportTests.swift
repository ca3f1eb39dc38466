/// The register window: identification, negotiation, queues, reset.

import Testing
import Virtio

struct TransportTests {
    private func driver() throws -> GuestDriver { try GuestDriver(EntropyDevice()) }

    @Test func identifiesItself() throws {
        let driver = try driver()
        #expect(driver.read(MMIORegister.magic) == 0x7472_6976)
        #expect(driver.read(MMIORegister.version) == 2)
        #expect(driver.read(MMIORegister.deviceID) == 4)
        #expect(driver.read(MMIORegister.queueSizeMaximum) == 64)
        driver.write(MMIORegister.queueSelect, 1)
        #expect(driver.read(MMIORegister.queueSizeMaximum) == 0)
        #expect(driver.read(MMIORegister.sharedMemoryLengthLow) == 0xFFFF_FFFF)
        #expect(driver.offered == Feature.version1 | Feature.eventIndex | Feature.indirectDescriptors)
        driver.write(MMIORegister.deviceFeaturesSelect, 2)
        #expect(driver.read(MMIORegister.deviceFeatures) == 0)
    }

    @Test func refusesFeatures() throws {
        let driver = try driver()
        #expect(!driver.negotiate(Feature.eventIndex), "VERSION_1 is required")
        #expect(!driver.negotiate(Feature.version1 | 1), "bit 0 was not offered")
        driver.write(MMIORegister.status, 15)
        #expect(driver.status == 3, "DRIVER_OK needs FEATURES_OK")
        #expect(driver.negotiate(Feature.version1))
        // What was agreed stays.
        driver.write(MMIORegister.driverFeaturesSelect, 0)
        driver.write(MMIORegister.driverFeatures, 1)
        driver.write(MMIORegister.status, 15)
        #expect(driver.status == 15)
        driver.write(MMIORegister.status, 1)
        #expect(driver.status == 15, "bits are cleared by a reset alone")
        driver.write(MMIORegister.status, 0)
        #expect(driver.status == 0)
    }

    @Test func ignoresAccessesThatMakeNoSense() throws {
        let driver = try driver()
        try driver.start()
        for offset in UInt64(0)..<0x200 {
            for size in [0, 1, 2, 3, 8, 16, -1] {
                _ = driver.device.readRegister(offset: offset, size: size)
                driver.device.writeRegister(offset: offset, size: size, value: .max)
            }
        }
        for offset in [UInt64.max, 0x1000, 0x8000_0000_0000_0000] {
            #expect(driver.device.readRegister(offset: offset, size: 4) == 0)
            driver.device.writeRegister(offset: offset, size: 4, value: .max)
        }
        #expect(driver.status == 15)
        #expect(driver.device.readRegister(offset: MMIORegister.magic, size: 1) == 0)
    }

    @Test func readsConfigurationInAnyWidth() throws {
        let file = try TemporaryDisk(byteCount: 512 * 0x1234)
        let driver = try GuestDriver(try BlockDevice(file: file.open()))
        let device = driver.device
        #expect(device.readRegister(offset: 0x100, size: 8) == 0x1234)
        #expect(device.readRegister(offset: 0x100, size: 4) == 0x1234)
        #expect(device.readRegister(offset: 0x100, size: 2) == 0x1234)
        #expect(device.readRegister(offset: 0x101, size: 1) == 0x12)
        #expect(device.readRegister(offset: 0x100 + 20, size: 4) == 512)
        #expect(device.readRegister(offset: 0x100 + 58, size: 8) == 0)
    }

    @Test(arguments: [0, 3, 48, 128, 0x10000, 0xFFFF_FFFF] as [UInt32])
    func refusesQueueSizes(_ size: UInt32) throws {
        let driver = try driver()
        try #require(driver.negotiate(Feature.version1))
        driver.write(MMIORegister.queueSize, size)
        driver.write(MMIORegister.queueReady, 1)
        #expect(driver.read(MMIORegister.queueReady) == 0)
        #expect(driver.needsReset)
        #expect(driver.log.all.count == 1)
    }

    /// Rings where no RAM is, at its end, at the end of the address space, and misaligned.
    @Test(arguments: [0x4000_0000, 0x7F_FFF0, .max - 15, 0x1_0010_0000, 0x20001, 0xFFFF_FFFF_FFFF_0000] as [UInt64])
    func refusesRingAddresses(_ address: UInt64) throws {
        for part in 0..<3 {
            let driver = try driver()
            try #require(driver.negotiate(Feature.version1))
            let good = UInt64(0x10000)
            driver.configure(
                DriverQueue(
                    index: 0, size: 64, descriptors: part == 0 ? address : good,
                    available: part == 1 ? address : good + 0x1000, used: part == 2 ? address : good + 0x2000))
            #expect(driver.read(MMIORegister.queueReady) == 0)
            #expect(driver.needsReset)
            driver.write(MMIORegister.status, 0)
            try driver.start()
            #expect(!driver.needsReset)
        }
    }

    @Test func resetForgetsEverything() throws {
        let driver = try driver()
        try driver.start()
        driver.add([.into(driver.allocate(32), 32)])
        driver.kick()
        _ = try driver.await()
        #expect(eventually { driver.line.level })
        driver.write(MMIORegister.status, 0)
        #expect(!driver.line.level)
        #expect(driver.read(MMIORegister.interruptStatus) == 0)
        #expect(driver.read(MMIORegister.queueReady) == 0)
        // And it works again, from index 0.
        try driver.start()
        driver.add([.into(driver.allocate(32), 32)])
        driver.kick()
        #expect(try driver.await().written == 32)
    }

    /// A queue that is taken away and given back at once, while the device is at work.
    @Test func queueCanBeTakenAway() throws {
        let driver = try driver()
        try driver.start()
        driver.add([.into(driver.allocate(32), 32)])
        driver.kick()
        _ = try driver.await()
        driver.write(MMIORegister.queueReady, 0)
        #expect(driver.read(MMIORegister.queueReady) == 0)
        driver.queues = []
        driver.addQueue(0, size: 16)
        driver.add([.into(driver.allocate(32), 16)])
        driver.kick()
        #expect(try driver.await().written == 16)
    }
}
