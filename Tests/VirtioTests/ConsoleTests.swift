/// The console: both directions, its backlog, and what moves along.

import Synchronization
import Testing
import Virtio

/// Collects what a guest prints.
final class Printed: Sendable {
    private let bytes = Mutex<[UInt8]>([])
    func add(_ more: [UInt8]) { bytes.withLock { $0 += more } }
    var text: String { String(decoding: bytes.withLock { $0 }, as: UTF8.self) }
}

struct ConsoleTests {
    @Test func printsAndReads() throws {
        let printed = Printed()
        let console = ConsoleDevice(output: { printed.add($0) })
        let driver = try GuestDriver(console)
        try driver.start(queueCount: 2)
        driver.memory.write(Array("hello ".utf8), at: 0x100000)
        driver.memory.write(Array("world".utf8), at: 0x101000)
        driver.add(1, [.out(0x100000, 6), .out(0x101000, 5)])
        driver.kickIfWanted(1)
        _ = try driver.awaitByInterrupt(1)
        #expect(printed.text == "hello world")
        // Input goes into as many buffers as it needs; the ones that are there already, and those that come.
        #expect(console.receive(Array("0123456789".utf8)) == 10)
        driver.add(0, [.into(0x110000, 4)])
        driver.add(0, [.into(0x110100, 4)])
        driver.kickIfWanted(0, added: 2)
        #expect(try driver.awaitByInterrupt(0).written == 4)
        #expect(try driver.awaitByInterrupt(0).written == 4)
        driver.add(0, [.into(0x110200, 40)])
        driver.kickIfWanted(0)
        #expect(try driver.awaitByInterrupt(0).written == 2)
        #expect(driver.memory.read(0x110000, 4) == Array("0123".utf8))
        #expect(driver.memory.read(0x110200, 2) == Array("89".utf8))
        driver.add(0, [.into(0x110300, 40)])
        driver.kickIfWanted(0)
        #expect(console.receive(Array("x".utf8)) == 1)
        #expect(try driver.awaitByInterrupt(0).written == 1)
        driver.checkMarks()
    }

    @Test func inputMovesAlong() throws {
        let console = ConsoleDevice(output: { _ in })
        let driver = try GuestDriver(console)
        try driver.start(queueCount: 2)
        let typed = [UInt8](repeating: 7, count: ConsoleDevice.backlogLimit + 5)
        #expect(console.receive(typed) == ConsoleDevice.backlogLimit)
        #expect(console.receive([1]) == 0)
        try driver.move(to: ConsoleDevice(output: { _ in }))
        driver.add(0, [.into(0x110000, ConsoleDevice.backlogLimit * 2)])
        driver.kick(0)
        #expect(try driver.awaitByInterrupt(0).written == ConsoleDevice.backlogLimit)
        driver.checkMarks()
    }

    @Test func refusesMonstrousOutput() throws {
        let driver = try GuestDriver(ConsoleDevice(output: { _ in }))
        try driver.start(queueCount: 2)
        driver.add(1, [.out(0x100000, 2 << 20)])
        driver.kick(1)
        #expect(eventually { driver.needsReset })
    }
}
