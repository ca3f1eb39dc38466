/// The disk: requests, refusals, both engines, moves with requests in flight.

import Glibc
import Testing
import Virtio

/// Ways to reach a file: io_uring or calls, direct or buffered, on a disk's file system or in memory.
struct Backing: CustomTestStringConvertible, Sendable {
    var allowsRing = true
    var allowsDirect = true
    var folder = "/var/tmp"
    var testDescription: String {
        "\(allowsRing ? "io_uring" : "calls"), \(allowsDirect ? "direct" : "buffered"), \(folder)"
    }

    static let all = [
        Backing(), Backing(allowsRing: false), Backing(allowsDirect: false),
        Backing(allowsRing: false, allowsDirect: false), Backing(folder: "/dev/shm"),
    ]

    func device(_ disk: TemporaryDisk, readOnly: Bool = false) throws -> BlockDevice {
        BlockDevice(
            file: try disk.open(readOnly: readOnly, allowsDirect: allowsDirect), serial: "serial-7",
            allowsRing: allowsRing)
    }
}

/// A driver of a disk. Requests use fixed places: header, answer, and data at `data`.
struct DiskDriver {
    let guest: GuestDriver
    static let data: UInt64 = 0x20_0000
    private let headers: UInt64 = 0x8_0000

    init(_ disk: TemporaryDisk, _ backing: Backing = Backing(), readOnly: Bool = false, features: UInt64? = nil) throws
    {
        try self.init(try backing.device(disk, readOnly: readOnly), features: features)
    }

    init(_ device: BlockDevice, features: UInt64? = nil) throws {
        guest = try GuestDriver(device)
        try guest.start(features: features, size: 256)
    }

    /// Queues a request; `slot` separates requests that are in flight at once.
    @discardableResult
    func queue(
        _ type: UInt32, sector: UInt64 = 0, _ data: [Buffer] = [], slot: Int = 0, indirect: Bool = false
    ) -> UInt16 {
        let header = headers + UInt64(slot) * 32
        guest.memory.write(type, at: header)
        guest.memory.write(UInt32(0), at: header + 4)
        guest.memory.write(sector, at: header + 8)
        guest.memory.write(UInt8(0xEE), at: header + 16)
        return guest.add([.out(header, 16)] + data + [.into(header + 16, 1)], indirect: indirect)
    }

    func answer(slot: Int = 0) -> UInt8 { guest.memory.read(headers + UInt64(slot) * 32 + 16, 1)[0] }

    /// One request from begin to end: the driver's answer byte.
    func run(_ type: UInt32, sector: UInt64 = 0, _ data: [Buffer] = [], indirect: Bool = false) throws -> UInt8 {
        let head = queue(type, sector: sector, data, indirect: indirect)
        guest.kickIfWanted()
        #expect(try guest.awaitByInterrupt().head == head)
        return answer()
    }

    func range(_ type: UInt32, sector: UInt64, count: UInt32, flags: UInt32 = 0) throws -> UInt8 {
        guest.memory.write(sector, at: Self.data)
        guest.memory.write(count, at: Self.data + 8)
        guest.memory.write(flags, at: Self.data + 12)
        return try run(type, [.out(Self.data, 16)])
    }
}

struct BlockTests {
    private static let data = DiskDriver.data

    @Test(arguments: Backing.all)
    func readsAndWrites(_ backing: Backing) throws {
        let disk = try TemporaryDisk(byteCount: 4 << 20, folder: backing.folder)
        disk.fill(0x11, at: 0, 8192)
        let driver = try DiskDriver(disk, backing)
        #expect(try driver.run(BlockProtocol.read, [.into(Self.data, 4096)]) == BlockProtocol.ok)
        #expect(driver.guest.memory.read(Self.data, 4096) == [UInt8](repeating: 0x11, count: 4096))
        driver.guest.memory.write((0..<8192).map { UInt8(truncatingIfNeeded: $0 * 7) }, at: Self.data)
        #expect(
            try driver.run(
                BlockProtocol.write, sector: 16, [.out(Self.data, 4096), .out(Self.data + 4096, 4096)], indirect: true)
                == BlockProtocol.ok)
        #expect(try driver.run(BlockProtocol.flush) == BlockProtocol.ok)
        #expect(disk.bytes(at: 8192, 8192) == (0..<8192).map { UInt8(truncatingIfNeeded: $0 * 7) })
        // Single sectors, and buffers that no direct I/O takes.
        #expect(try driver.run(BlockProtocol.read, sector: 17, [.into(Self.data + 3, 512)]) == BlockProtocol.ok)
        #expect(driver.guest.memory.read(Self.data + 3, 512) == disk.bytes(at: 17 * 512, 512))
        #expect(
            try driver.run(BlockProtocol.read, sector: 16, [.into(Self.data + 1, 100), .into(Self.data + 4096, 412)])
                == BlockProtocol.ok)
        #expect(driver.guest.memory.read(Self.data + 4096, 412) == disk.bytes(at: 8192 + 100, 412))
        driver.guest.checkMarks()
    }

    @Test(arguments: Backing.all)
    func refusesWhatIsOutside(_ backing: Backing) throws {
        let disk = try TemporaryDisk(byteCount: 1 << 20, folder: backing.folder)
        let driver = try DiskDriver(disk, backing)
        for sector in [2048, 2047, UInt64.max, 1 << 55, 1 << 63] as [UInt64] {
            for type in [BlockProtocol.read, BlockProtocol.write] {
                let buffer: Buffer = type == BlockProtocol.read ? .into(Self.data, 1024) : .out(Self.data, 1024)
                #expect(try driver.run(type, sector: sector, [buffer]) == BlockProtocol.ioError)
            }
            #expect(try driver.range(BlockProtocol.discard, sector: sector, count: 2) == BlockProtocol.ioError)
        }
        #expect(try driver.run(BlockProtocol.read, [.into(Self.data, 100)]) == BlockProtocol.ioError)
        #expect(try driver.range(BlockProtocol.discard, sector: 0, count: .max) == BlockProtocol.ioError)
        #expect(try driver.range(BlockProtocol.discard, sector: 0, count: 8, flags: 1) == BlockProtocol.unsupported)
        #expect(try driver.range(BlockProtocol.writeZeroes, sector: 0, count: 8, flags: 2) == BlockProtocol.unsupported)
        #expect(try driver.run(BlockProtocol.discard, [.out(Self.data, 32)]) == BlockProtocol.ioError)
        #expect(try driver.run(77) == BlockProtocol.unsupported)
        #expect(try driver.run(BlockProtocol.read) == BlockProtocol.ok)
        #expect(!driver.guest.needsReset)
        #expect(disk.bytes(at: 0, 1 << 20).allSatisfy { $0 == 0 })
        driver.guest.checkMarks()
    }

    @Test func tellsItsSerial() throws {
        let driver = try DiskDriver(try TemporaryDisk(byteCount: 1 << 20))
        #expect(try driver.run(BlockProtocol.getID, [.into(Self.data, 20)]) == BlockProtocol.ok)
        #expect(driver.guest.memory.read(Self.data, 20) == Array("serial-7".utf8) + [UInt8](repeating: 0, count: 12))
        #expect(try driver.run(BlockProtocol.getID, [.into(Self.data, 4)]) == BlockProtocol.ioError)
        driver.guest.checkMarks()
    }

    @Test(arguments: Backing.all)
    func discardsAndZeroes(_ backing: Backing) throws {
        let disk = try TemporaryDisk(byteCount: 4 << 20, folder: backing.folder)
        disk.fill(0x77, at: 0, 4 << 20)
        let driver = try DiskDriver(disk, backing)
        let before = disk.allocatedBlocks
        #expect(try driver.range(BlockProtocol.discard, sector: 0, count: 2048) == BlockProtocol.ok)
        #expect(disk.bytes(at: 0, 1 << 20).allSatisfy { $0 == 0 })
        #expect(disk.bytes(at: 1 << 20, 512) == [UInt8](repeating: 0x77, count: 512))
        #expect(disk.allocatedBlocks < before)
        #expect(
            try driver.range(BlockProtocol.writeZeroes, sector: 4096, count: 1024, flags: 1) == BlockProtocol.ok)
        #expect(disk.bytes(at: 2 << 20, 512 << 10).allSatisfy { $0 == 0 })
        // Without leave to give space back: tmpfs has no way, says so, and changes nothing.
        let kept = try driver.range(BlockProtocol.writeZeroes, sector: 6144, count: 8)
        #expect(kept == BlockProtocol.ok || kept == BlockProtocol.unsupported)
        let expected: UInt8 = kept == BlockProtocol.ok ? 0 : 0x77
        #expect(disk.bytes(at: 3 << 20, 4096).allSatisfy { $0 == expected })
        #expect(disk.bytes(at: 3 << 20 + 4096, 512).allSatisfy { $0 == 0x77 })
    }

    @Test(arguments: Backing.all)
    func keepsReadOnly(_ backing: Backing) throws {
        let disk = try TemporaryDisk(byteCount: 1 << 20, folder: backing.folder)
        disk.fill(0x33, at: 0, 1 << 20)
        let driver = try DiskDriver(disk, backing, readOnly: true)
        #expect(driver.guest.offered & BlockDevice.Features.readOnly != 0)
        #expect(driver.guest.offered & BlockDevice.Features.discard == 0)
        #expect(try driver.run(BlockProtocol.write, [.out(Self.data, 512)]) == BlockProtocol.ioError)
        #expect(try driver.range(BlockProtocol.discard, sector: 0, count: 8) == BlockProtocol.ioError)
        #expect(try driver.range(BlockProtocol.writeZeroes, sector: 0, count: 8) == BlockProtocol.ioError)
        #expect(try driver.run(BlockProtocol.flush) == BlockProtocol.ok)
        #expect(try driver.run(BlockProtocol.read, [.into(Self.data, 512)]) == BlockProtocol.ok)
        #expect(disk.bytes(at: 0, 1 << 20).allSatisfy { $0 == 0x33 })
    }

    /// 85 requests at once, more than once around; each sector gets its own contents, and a flush comes in between.
    @Test(arguments: Backing.all)
    func manyAtOnce(_ backing: Backing) throws {
        let disk = try TemporaryDisk(byteCount: 4 << 20, folder: backing.folder)
        let driver = try DiskDriver(disk, backing, features: Feature.version1 | Feature.eventIndex)
        let count = 80
        for round in 0..<8 {
            for index in 0..<count {
                let at = Self.data + UInt64(index) * 4096
                driver.guest.memory.write([UInt8](repeating: UInt8(round * 16 + index % 16), count: 4096), at: at)
                driver.queue(BlockProtocol.write, sector: UInt64(index) * 8, [.out(at, 4096)], slot: index)
            }
            driver.queue(BlockProtocol.flush, slot: count)
            driver.guest.kickIfWanted(added: UInt16(count + 1))
            for _ in 0...count { _ = try driver.guest.awaitByInterrupt() }
            for index in 0...count { #expect(driver.answer(slot: index) == BlockProtocol.ok) }
            for index in 0..<count {
                #expect(disk.bytes(at: index * 4096, 1)[0] == UInt8(round * 16 + index % 16))
            }
        }
        driver.guest.checkMarks()
    }

    /// More than the device does at once, in one kick.
    @Test(arguments: Backing.all)
    func moreThanItsDepth(_ backing: Backing) throws {
        let disk = try TemporaryDisk(byteCount: 4 << 20, folder: backing.folder)
        let driver = try DiskDriver(disk, backing)
        for _ in 0..<4 {
            for index in 0..<250 {
                driver.queue(
                    BlockProtocol.read, sector: UInt64(index) * 8, [.into(Self.data + UInt64(index) * 4096, 4096)],
                    slot: index, indirect: true)
            }
            driver.guest.kickIfWanted(added: 250)
            for _ in 0..<250 { _ = try driver.guest.awaitByInterrupt() }
            for index in 0..<250 { #expect(driver.answer(slot: index) == BlockProtocol.ok) }
        }
    }

    /// Moves with requests in flight and in the ring: each is done once, at one of the two.
    @Test(arguments: Backing.all)
    func movesInTheMiddle(_ backing: Backing) throws {
        let disk = try TemporaryDisk(byteCount: 4 << 20, folder: backing.folder)
        let driver = try DiskDriver(disk, backing)
        let count = 80
        for round in 0..<20 {
            var outstanding: Set<UInt16> = []
            for index in 0..<count {
                let at = Self.data + UInt64(index) * 4096
                driver.guest.memory.write([UInt8](repeating: UInt8(round + index), count: 4096), at: at)
                outstanding.insert(
                    driver.queue(
                        index % 2 == 0 ? BlockProtocol.write : BlockProtocol.read, sector: UInt64(index) * 8,
                        [index % 2 == 0 ? .out(at, 4096) : .into(at, 4096)], slot: index))
            }
            driver.guest.kick()
            try driver.guest.move(to: try backing.device(disk))
            for _ in 0..<count { #expect(outstanding.remove(try driver.guest.awaitByInterrupt().head) != nil) }
            #expect(driver.guest.take() == nil)
            for index in 0..<count {
                #expect(driver.answer(slot: index) == BlockProtocol.ok)
                if index % 2 == 0 { #expect(disk.bytes(at: index * 4096, 1)[0] == UInt8(round + index)) }
            }
        }
        driver.guest.checkMarks()
    }

    /// The file is shorter than it was: an error, not a hang and not old data called new.
    @Test(arguments: Backing.all)
    func fileWasCutOff(_ backing: Backing) throws {
        let disk = try TemporaryDisk(byteCount: 1 << 20, folder: backing.folder)
        let driver = try DiskDriver(disk, backing)
        truncate(disk.path, 4096)
        #expect(try driver.run(BlockProtocol.read, sector: 1024, [.into(Self.data, 4096)]) == BlockProtocol.ioError)
        #expect(try driver.run(BlockProtocol.read, sector: 0, [.into(Self.data, 8192)]) == BlockProtocol.ioError)
        driver.guest.checkMarks()
    }

    @Test func requestsWithoutHeaderAreFaults() throws {
        let disk = try TemporaryDisk(byteCount: 1 << 20)
        for chain in [[Buffer.out(Self.data, 16)], [.out(Self.data, 15), .into(Self.data, 1)], [.into(Self.data, 17)]] {
            let guest = try GuestDriver(try BlockDevice(file: disk.open()))
            try guest.start()
            guest.add(chain)
            guest.kick()
            #expect(eventually { guest.needsReset })
            #expect(eventually { guest.line.level })
            #expect(guest.read(MMIORegister.interruptStatus) == 2)
            // A broken device moves too, and is reset there.
            try guest.move(to: try BlockDevice(file: disk.open()))
            #expect(guest.needsReset)
            try guest.start()
            #expect(!guest.needsReset)
            #expect(guest.log.all.filter { $0.contains("the driver went wrong") }.count == 1)
        }
    }
}

struct BlockFileTests {
    @Test func locksOut() throws {
        let disk = try TemporaryDisk(byteCount: 1 << 20)
        let (first, second) = (try disk.open(), try disk.open())
        let (reader, other) = (try disk.open(readOnly: true), try disk.open(readOnly: true))
        #expect(first.identity == second.identity)
        try first.lock()
        try first.lock()
        let error = #expect(throws: VirtioError.self) { try second.lock() }
        #expect(error?.code == .inUse)
        #expect(error?.message.contains("in use by another VM") == true)
        #expect(throws: VirtioError.self) { try reader.lock() }
        first.unlock()
        try reader.lock()
        try other.lock()
        #expect(throws: VirtioError.self) { try second.lock() }
        reader.unlock()
        other.unlock()
        try second.lock()
    }

    @Test func endOfOwnerUnlocks() throws {
        let disk = try TemporaryDisk(byteCount: 1 << 20)
        do {
            let first = try disk.open()
            try first.lock()
            withExtendedLifetime(first) {}
        }
        try disk.open().lock()
    }

    @Test(arguments: ["/no/such/file", "/var/tmp", "/dev/null", "/dev/zero"])
    func refuses(_ path: String) {
        for readOnly in [true, false] {
            let error = #expect(throws: VirtioError.self) { try BlockFile(path, readOnly: readOnly) }
            #expect(error?.code == .unusable)
            #expect(error?.message.contains(path) == true)
        }
    }

    @Test func describes() throws {
        let disk = try TemporaryDisk(byteCount: 1 << 20)
        truncate(disk.path, 1000)
        let file = try disk.open()
        #expect(file.byteCount == 1000)
        #expect(file.sectorCount == 1)
        #expect(!file.isBlockDevice)
        truncate(disk.path, 511)
        #expect(throws: VirtioError.self) { try disk.open() }
    }
}
