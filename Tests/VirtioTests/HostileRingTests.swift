/// Drivers that do what no driver may: each case ends with "needs reset" and one line in the log, and after the reset the
/// device works.

import Testing
import Virtio

struct HostileRingTests {
    struct Case: CustomTestStringConvertible, Sendable {
        var name: String
        /// Part of the line in the log.
        var says: String
        var features = Feature.version1 | Feature.eventIndex | Feature.indirectDescriptors
        var act: @Sendable (GuestDriver) -> Void
        var testDescription: String { name }
    }

    static let cases: [Case] = [
        Case(name: "index jumps by more than the queue", says: "jumped from 0 to 65") { $0.setAvailableIndex(0, 65) },
        Case(name: "index goes back", says: "jumped from 0 to 65535") { $0.setAvailableIndex(0, 0xFFFF) },
        Case(name: "head outside the table", says: "descriptor 64 in a table of 64") { $0.offer(0, 64) },
        Case(name: "head far outside", says: "descriptor 65535") { $0.offer(0, 0xFFFF) },
        Case(name: "next outside the table", says: "descriptor 64 in a table of 64") {
            $0.descriptor(0, 0, 0x100000, 8, 3, 64)
            $0.offer(0, 0)
        },
        Case(name: "loop of one", says: "a loop") {
            $0.descriptor(0, 0, 0x100000, 8, 3, 0)
            $0.offer(0, 0)
        },
        Case(name: "loop of many", says: "a loop") {
            for index in 0..<64 { $0.descriptor(0, UInt16(index), 0x100000, 8, 3, UInt16((index + 1) % 64)) }
            $0.offer(0, 5)
        },
        Case(name: "buffer outside RAM", says: "8 bytes at 0x40000000") {
            $0.descriptor(0, 0, 0x4000_0000, 8, 2, 0)
            $0.offer(0, 0)
        },
        Case(name: "buffer over the end of RAM", says: "the buffer is not in memory") {
            $0.descriptor(0, 0, 0x7F_FFF9, 8, 2, 0)
            $0.offer(0, 0)
        },
        Case(name: "buffer over the end of the address space", says: "the buffer is not in memory") {
            $0.descriptor(0, 0, .max - 3, 8, 2, 0)
            $0.offer(0, 0)
        },
        Case(name: "buffer of 4 GiB", says: "4294967295 bytes at 0x100000") {
            $0.descriptor(0, 0, 0x100000, .max, 2, 0)
            $0.offer(0, 0)
        },
        Case(name: "readable behind writable", says: "a readable buffer behind a writable one") {
            $0.add([.into(0x100000, 8), .out(0x100008, 8)])
        },
        Case(name: "indirect, not agreed", says: "an indirect descriptor where none may be", features: Feature.version1)
        {
            $0.add([.into(0x100000, 8)], indirect: true)
        },
        Case(name: "indirect with a next", says: "an indirect descriptor where none may be") {
            $0.descriptor(0, 0, 0x100000, 16, 4 | 1, 1)
            $0.offer(0, 0)
        },
        Case(name: "indirect in indirect", says: "an indirect descriptor where none may be") {
            $0.writeDescriptor(0x100000, 0x100000, 16, 4, 0)
            $0.descriptor(0, 0, 0x100000, 16, 4, 0)
            $0.offer(0, 0)
        },
        Case(name: "empty indirect table", says: "an indirect table of 0 bytes") {
            $0.descriptor(0, 0, 0x100000, 0, 4, 0)
            $0.offer(0, 0)
        },
        Case(name: "indirect table of odd length", says: "an indirect table of 17 bytes") {
            $0.descriptor(0, 0, 0x100000, 17, 4, 0)
            $0.offer(0, 0)
        },
        Case(name: "indirect table longer than the queue", says: "an indirect table of 1040 bytes") {
            $0.descriptor(0, 0, 0x100000, 65 * 16, 4, 0)
            $0.offer(0, 0)
        },
        Case(name: "indirect table outside RAM", says: "the indirect table is not in memory") {
            $0.descriptor(0, 0, 0x7F_FFF8, 16, 4, 0)
            $0.offer(0, 0)
        },
        Case(name: "loop in an indirect table", says: "a loop") {
            $0.writeDescriptor(0x100000, 0x110000, 16, 3, 1)
            $0.writeDescriptor(0x100010, 0x110000, 16, 3, 0)
            $0.descriptor(0, 0, 0x100000, 32, 4, 0)
            $0.offer(0, 0)
        },
        Case(name: "next outside an indirect table", says: "descriptor 2 in a table of 2") {
            $0.writeDescriptor(0x100000, 0x110000, 16, 3, 2)
            $0.descriptor(0, 0, 0x100000, 32, 4, 0)
            $0.offer(0, 0)
        },
    ]

    @Test(arguments: cases)
    func needsReset(_ hostile: Case) throws {
        let driver = try GuestDriver(EntropyDevice())
        try driver.start(features: hostile.features, size: 64)
        hostile.act(driver)
        driver.kick()
        try #require(eventually { driver.needsReset })
        #expect(eventually { driver.read(MMIORegister.interruptStatus) & 2 != 0 })
        #expect(eventually { driver.log.all.count == 1 })
        #expect(driver.log.all.first?.contains(hostile.says) == true, "\(driver.log.all)")
        // More kicks change nothing.
        for _ in 0..<10 { driver.kick() }
        driver.checkMarks()
        #expect(driver.log.all.count == 1)
        // It moves as it is; the driver resets it there.
        try driver.move(to: EntropyDevice())
        #expect(driver.needsReset)
        try driver.start(features: hostile.features, size: 64)
        driver.add([.into(0x300000, 64)])
        driver.kick()
        #expect(try driver.awaitByInterrupt().written == 64)
    }

    /// What looks odd and is allowed: empty buffers, a chain with no writable part, a table behind direct buffers.
    @Test func acceptsTheUnusual() throws {
        let driver = try GuestDriver(EntropyDevice())
        try driver.start(size: 64)
        driver.add([.into(0x100000, 0)])
        driver.add([.out(0x100000, 8)])
        driver.add([.into(0xFFFF_FFFF_FFFF, 0), .into(0x100000, 8)])
        driver.writeDescriptor(0x120000, 0x130000, 16, 2, 0)
        driver.descriptor(0, 10, 0x100000, 16, 3, 11)
        driver.descriptor(0, 11, 0x120000, 16, 4, 0)
        driver.offer(0, 10)
        driver.kick()
        for written in [0, 0, 8, 32] { #expect(try driver.await().written == written) }
        #expect(!driver.needsReset)
        driver.checkMarks()
    }

    /// A driver that goes wrong after every reset does not fill the log.
    @Test func logIsBounded() throws {
        let driver = try GuestDriver(EntropyDevice())
        for _ in 0..<40 {
            try driver.start(size: 64)
            driver.offer(0, 0xFFFF)
            driver.kick()
            try #require(eventually { driver.needsReset })
        }
        driver.device.quiesce()
        #expect(driver.log.all.count == 16)
    }
}
