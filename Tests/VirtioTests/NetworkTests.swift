/// The network card over a pair of sockets, and over a tap where this host lets us make one.

import Glibc
import Testing
import Virtio

/// The other end of a network card.
final class Wire {
    let port: NetworkPort
    let end: CInt

    init() throws {
        var ends: [CInt] = [0, 0]
        try #require(socketpair(AF_UNIX, CInt(SOCK_SEQPACKET.rawValue), 0, &ends) == 0)
        var size: CInt = 1 << 20
        for end in ends { setsockopt(end, SOL_SOCKET, SO_SNDBUF, &size, socklen_t(MemoryLayout<CInt>.size)) }
        port = try NetworkPort(adopting: ends[0], name: "test")
        end = ends[1]
    }

    deinit { close(end) }

    /// A frame to the guest, behind an empty header.
    func send(_ frame: [UInt8]) {
        let bytes = [1] + [UInt8](repeating: 0, count: 11) + frame
        #expect(write(end, bytes, bytes.count) == bytes.count)
    }

    /// A frame of the guest without its header; waits for one.
    func receive() throws -> [UInt8] {
        var entry = pollfd(fd: end, events: CShort(POLLIN), revents: 0)
        try #require(poll(&entry, 1, 20_000) == 1, "no frame came")
        var bytes = [UInt8](repeating: 0, count: 128 << 10)
        let count = read(end, &bytes, bytes.count)
        try #require(count >= 12)
        return Array(bytes[12..<count])
    }
}

struct NetworkTests {
    private let mac: MACAddress
    init() throws { mac = try #require(MACAddress("52:54:00:12:34:56")) }

    private func card(_ wire: Wire) -> NetworkDevice { NetworkDevice(port: wire.port, mac: mac) }

    private func pattern(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ count) } }

    @Test func parsesAddresses() {
        #expect(MACAddress("52:54:00:12:34:56")?.description == "52:54:00:12:34:56")
        for text in [
            "", "52:54:00:12:34", "52:54:00:12:34:5", "53:54:00:12:34:56", "00:00:00:00:00:00", "+1:2:3:4:5:6",
        ] {
            #expect(MACAddress(text) == nil, "\(text)")
        }
    }

    @Test func tellsItsConfiguration() throws {
        let driver = try GuestDriver(card(try Wire()))
        #expect((0..<6).map { UInt8(driver.device.readRegister(offset: 0x100 + $0, size: 1)) } == mac.bytes)
        #expect(driver.device.readRegister(offset: 0x106, size: 2) == 1)
    }

    @Test func refusesFeaturesWithoutTheirBase() throws {
        typealias Features = NetworkDevice.Features
        let driver = try GuestDriver(card(try Wire()))
        for alone in [Features.guestTSO4, Features.hostTSO6, Features.guestAnnounce] {
            #expect(!driver.negotiate(Feature.version1 | alone))
        }
        #expect(driver.negotiate(Feature.version1 | Features.guestTSO4 | Features.guestChecksum))
    }

    @Test func sends() throws {
        let wire = try Wire()
        let driver = try GuestDriver(card(wire))
        try driver.start(queueCount: 3)
        for length in [14, 60, 1514, 65_000] {
            driver.memory.write([UInt8](repeating: 0, count: 12) + pattern(length), at: 0x100000)
            driver.add(1, [.out(0x100000, 20), .out(0x100014, length - 8)])
            driver.kickIfWanted(1)
            _ = try driver.awaitByInterrupt(1)
            #expect(try wire.receive() == pattern(length))
        }
        // Too long, too short: dropped, and the next one goes.
        driver.add(1, [.out(0x100000, NetworkDevice.frameLimit + 1)])
        driver.add(1, [.out(0x100000, 5)])
        driver.add(1, [.out(0x100000, 12 + 60)])
        driver.kickIfWanted(1, added: 3)
        for _ in 0..<3 { _ = try driver.awaitByInterrupt(1) }
        #expect(try wire.receive() == Array(pattern(65_000).prefix(60)))
        driver.checkMarks()
    }

    /// More frames than the host takes at once: they wait in the queue, in order.
    @Test func waitsForTheHost() throws {
        let wire = try Wire()
        let driver = try GuestDriver(card(wire))
        try driver.start(features: Feature.version1 | Feature.eventIndex, size: 256, queueCount: 2)
        for round in 0..<4 {
            for index in 0..<200 {
                let at = UInt64(0x100000 + index * 8192)
                driver.memory.write(
                    [UInt8](repeating: 0, count: 12) + [UInt8](repeating: UInt8(index), count: 8000), at: at)
                driver.add(1, [.out(at, 8012)])
            }
            driver.kickIfWanted(1, added: 200)
            for index in 0..<200 {
                #expect(try wire.receive() == [UInt8](repeating: UInt8(index), count: 8000), "\(round)")
            }
            for _ in 0..<200 { _ = try driver.awaitByInterrupt(1) }
        }
    }

    @Test(arguments: [true, false])
    func receives(_ merges: Bool) throws {
        let wire = try Wire()
        let driver = try GuestDriver(card(wire))
        try driver.start(
            features: Feature.version1 | Feature.eventIndex
                | (merges ? NetworkDevice.Features.mergeableBuffers : 0), queueCount: 2)
        // Frames that come before there is a buffer wait at the host.
        for length in [60, 1514, 3000] { wire.send(pattern(length)) }
        for length in [60, 1514, 3000] {
            // Exactly the buffers that this frame needs: the next one is there already.
            let wanted = merges ? (length + 12 + 1023) / 1024 : 1
            for index in 0..<wanted { driver.add(0, [.into(UInt64(0x100000 + index * 4096), merges ? 1024 : 4096)]) }
            driver.kickIfWanted(0, added: UInt16(wanted))
            var frame: [UInt8] = []
            for index in 0..<wanted {
                let at = UInt64(0x100000 + index * 4096)
                frame += driver.memory.read(at, try driver.awaitByInterrupt(0).written)
            }
            // Without the feature, "the checksum is good" is not for this driver.
            #expect(frame[0] == 0)
            #expect(frame[10] == UInt8(wanted))
            #expect(Array(frame.dropFirst(12)) == pattern(length))
        }
        driver.checkMarks()
    }

    /// A frame needs more buffers than there are: it waits for them, and a kick for the next buffer comes.
    @Test func waitsForBuffers() throws {
        let wire = try Wire()
        let driver = try GuestDriver(card(wire))
        try driver.start(queueCount: 3)
        driver.add(0, [.into(0x100000, 1024)])
        driver.kickIfWanted(0)
        wire.send(pattern(2500))
        for index in 1..<3 {
            // The device has had time to find that it has too few, or has not: both end the same.
            usleep(2000)
            driver.add(0, [.into(UInt64(0x100000 + index * 4096), 1024)])
            driver.kickIfWanted(0)
        }
        for _ in 0..<3 { _ = try driver.awaitByInterrupt(0) }
        #expect(driver.memory.read(UInt16.self, at: 0x10000A) == 3)
        driver.checkMarks()
    }

    /// Without merging, a frame that is too long for its buffer is lost, and only that one.
    @Test func dropsWhatDoesNotFit() throws {
        let wire = try Wire()
        let driver = try GuestDriver(card(wire))
        try driver.start(features: Feature.version1, queueCount: 2)
        driver.add(0, [.into(0x100000, 1526)])
        driver.kick(0)
        wire.send(pattern(3000))
        wire.send(pattern(100))
        #expect(try driver.awaitByInterrupt(0).written == 112)
        #expect(driver.memory.read(0x10000C, 100) == pattern(100))
    }

    @Test func announcesAfterAMove() throws {
        let (wire, destination) = (try Wire(), try Wire())
        let driver = try GuestDriver(card(wire))
        try driver.start(queueCount: 3)
        let moved = card(destination)
        try driver.move(to: moved)
        moved.announce()
        #expect(driver.device.readRegister(offset: 0x106, size: 2) == 3)
        #expect(driver.read(MMIORegister.interruptStatus) & 2 != 0)
        for _ in 0..<5 {
            let frame = try destination.receive()
            #expect(frame.count == 60)
            #expect(Array(frame[..<6]) == [UInt8](repeating: 0xFF, count: 6))
            #expect(Array(frame[6..<12]) == mac.bytes)
            #expect(Array(frame[12..<14]) == [0x80, 0x35])
        }
        // Not yet acknowledged: another move takes the wish along.
        try driver.move(to: card(try Wire()))
        #expect(driver.device.readRegister(offset: 0x106, size: 2) == 3)
        driver.memory.write([3, 0, 0xEE], at: 0x100000)
        driver.add(2, [.out(0x100000, 2), .into(0x100002, 1)])
        driver.kickIfWanted(2)
        _ = try driver.awaitByInterrupt(2)
        #expect(driver.memory.read(0x100002, 1) == [0])
        #expect(driver.device.readRegister(offset: 0x106, size: 2) == 1)
        // Any other command is refused.
        driver.memory.write([0, 0, 1, 0xEE], at: 0x100000)
        driver.add(2, [.out(0x100000, 3), .into(0x100003, 1)])
        driver.kickIfWanted(2)
        _ = try driver.awaitByInterrupt(2)
        #expect(driver.memory.read(0x100003, 1) == [1])
        driver.checkMarks()
    }

    @Test func tapMustExist() {
        let error = #expect(throws: VirtioError.self) { try NetworkPort(tap: "no-such-tap0") }
        #expect(error?.message.contains("ip tuntap add mode tap name no-such-tap0") == true)
        #expect(throws: VirtioError.self) { try NetworkPort(tap: "lo") }
        #expect(throws: VirtioError.self) { try NetworkPort(tap: "../lo") }
        #expect(throws: VirtioError.self) { try NetworkPort(tap: "a-name-that-is-too-long") }
    }
}

/// Over a real tap interface; only where this process may make one.
struct TapTests {
    private static func run(_ command: String) -> Bool { system("\(command) >/dev/null 2>&1") == 0 }

    private static let name = "vt\(getpid())"
    private static let canMake: Bool = {
        guard run("ip tuntap add mode tap name \(name)") else { return false }
        return run("ip link set \(name) up")
    }()

    /// Frames that the host got out of the interface.
    private static func receivedCount() -> Int {
        let file = open("/sys/class/net/\(name)/statistics/rx_packets", O_RDONLY)
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: 64)
        let count = max(read(file, &bytes, bytes.count), 0)
        return Int(String(decoding: bytes[..<count].filter { $0 != 10 }, as: UTF8.self)) ?? -1
    }

    /// A frame from the host's own stack (a neighbour solicitation or the like) reaches the guest, and one of the guest's
    /// is counted by the interface.
    @Test(.enabled(if: canMake)) func passesFrames() throws {
        defer { _ = Self.run("ip tuntap del mode tap name \(Self.name)") }
        let mac = try #require(MACAddress("52:54:00:aa:bb:cc"))
        let device = NetworkDevice(port: try NetworkPort(tap: Self.name), mac: mac)
        let driver = try GuestDriver(device)
        try driver.start(queueCount: 3)
        let busy = #expect(throws: VirtioError.self) { try NetworkPort(tap: Self.name) }
        #expect(busy?.code == .inUse)
        let before = Self.receivedCount()
        // ARP "who has 192.0.2.1", from the guest.
        let frame: [UInt8] =
            [UInt8](repeating: 0xFF, count: 6) + mac.bytes + [8, 6, 0, 1, 8, 0, 6, 4, 0, 1] + mac.bytes
            + [192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]
        driver.memory.write([UInt8](repeating: 0, count: 12) + frame, at: 0x100000)
        driver.add(1, [.out(0x100000, 12 + frame.count)])
        driver.kickIfWanted(1)
        _ = try driver.awaitByInterrupt(1)
        #expect(Self.receivedCount() == before + 1)
        device.announce()
        #expect(eventually { Self.receivedCount() >= before + 6 })
        // The host's side asks for an address over the interface: a frame that has to come to the guest.
        for index in 0..<16 { driver.add(0, [.into(UInt64(0x200000 + index * 4096), 2048)]) }
        driver.kickIfWanted(0, added: 16)
        #expect(Self.run("ip addr add 192.0.2.9/24 dev \(Self.name)"))
        // A datagram to nobody makes the host ask for the address.
        _ = Self.run("bash -c 'echo > /dev/udp/192.0.2.2/9'")
        let used = try driver.awaitByInterrupt(0)
        #expect(used.written >= 12 + 42)
        driver.checkMarks()
    }
}
