/// The balloon: pages given up, pages reported free, and what the configuration space says.

import Testing
import Virtio

struct BalloonTests {
    @Test func inflates() throws {
        let balloon = BalloonDevice()
        let driver = try GuestDriver(balloon)
        try driver.start(queueCount: 3)
        balloon.setTarget(pages: 100)
        #expect(driver.line.level)
        #expect(driver.read(MMIORegister.interruptStatus) == 2)
        #expect(driver.read(MMIORegister.configuration) == 100)
        driver.write(MMIORegister.interruptAcknowledge, 2)
        // Upwards, downwards, alone, and two that are not memory.
        let pages: [UInt32] = [0x300, 0x301, 0x302, 0x403, 0x402, 0x500, 0xFFFF_FFFF, 0x4_0000]
        for page in pages where page < 0x800 {
            driver.memory.write([UInt8](repeating: 0xAB, count: 4096), at: UInt64(page) * 4096)
        }
        for (index, page) in pages.enumerated() { driver.memory.write(page, at: 0x100000 + UInt64(index) * 4) }
        driver.add(0, [.out(0x100000, pages.count * 4)])
        driver.kickIfWanted(0)
        _ = try driver.awaitByInterrupt(0)
        #expect(driver.memory.discardedRanges == [0x300000..<0x303000, 0x402000..<0x404000, 0x500000..<0x501000])
        #expect(driver.memory.read(0x302000, 4096).allSatisfy { $0 == 0 })
        driver.write(MMIORegister.configuration + 4, 6)
        #expect(balloon.actualPages == 6)
        driver.write(MMIORegister.configuration, 1)
        #expect(balloon.targetPages == 100, "the target is not the driver's")
        driver.add(1, [.out(0x100000, 12)])
        driver.kickIfWanted(1)
        _ = try driver.awaitByInterrupt(1)
        #expect(!driver.needsReset)
        #expect(driver.log.all.count == 1)
        driver.checkMarks()

        let moved = BalloonDevice()
        try driver.move(to: moved)
        #expect(moved.actualPages == 6)
        #expect(moved.targetPages == 100)
    }

    /// Whole pages of what is reported, and nothing beside them.
    @Test func discardsFreePages() throws {
        let driver = try GuestDriver(BalloonDevice())
        try driver.start(queueCount: 3)
        #expect(driver.offered & BalloonDevice.Features.reporting != 0)
        driver.add(2, [.into(0x200000, 0x200000), .into(0x500100, 0x2000), .into(0x600100, 0x200)])
        driver.kickIfWanted(2)
        _ = try driver.awaitByInterrupt(2)
        #expect(driver.memory.discardedRanges == [0x200000..<0x400000, 0x501000..<0x502000])
        driver.checkMarks()
    }
}
