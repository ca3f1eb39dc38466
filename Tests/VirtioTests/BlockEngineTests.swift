/// What a disk does when its I/O is slow, short, interrupted or refused.

import CLibURing
import Glibc
import Synchronization
import Testing
import Virtio

struct BlockEngineTests {
    private static let data = DiskDriver.data

    private func driver(
        _ disk: TemporaryDisk, _ engine: ScriptedEngine, features: UInt64? = nil
    ) throws -> DiskDriver {
        let device = BlockDevice(file: try disk.open(), serial: "", allowsRing: true, engine: engine)
        return try DiskDriver(device, features: features)
    }

    private func disk() throws -> TemporaryDisk { try TemporaryDisk(byteCount: 1 << 20) }

    @Test(arguments: [512, 1000, 4096, 1])
    func shortTransfersGoOn(_ limit: Int) throws {
        let disk = try disk()
        let length = limit == 1 ? 512 : 8192
        let contents = (0..<length).map { UInt8(truncatingIfNeeded: $0 &* 13 &+ 5) }
        let engine = ScriptedEngine(transferLimit: limit)
        let driver = try driver(disk, engine)
        driver.guest.memory.write(contents, at: Self.data)
        let half = length / 2
        #expect(
            try driver.run(
                BlockProtocol.write, sector: 8, [.out(Self.data, half), .out(Self.data + UInt64(half), half)])
                == BlockProtocol.ok)
        #expect(disk.bytes(at: 4096, length) == contents)
        let target = Self.data + 0x10000
        #expect(
            try driver.run(BlockProtocol.read, sector: 8, [.into(target, 100), .into(target + 100, length - 100)])
                == BlockProtocol.ok)
        #expect(driver.guest.memory.read(target, length) == contents)
        driver.guest.checkMarks()
    }

    @Test func interruptedCallsAreRepeated() throws {
        let engine = ScriptedEngine(script: [-Int(EINTR), -Int(EAGAIN), nil])
        let driver = try driver(try disk(), engine)
        #expect(try driver.run(BlockProtocol.read, [.into(Self.data, 4096)]) == BlockProtocol.ok)
        #expect(engine.names == ["read", "read", "read"])
    }

    @Test func doesNotTryForEver() throws {
        let engine = ScriptedEngine(script: .init(repeating: -Int(EAGAIN), count: 1000))
        let driver = try driver(try disk(), engine)
        #expect(try driver.run(BlockProtocol.write, [.out(Self.data, 4096)]) == BlockProtocol.ioError)
        #expect(engine.calls.count == 101)
    }

    @Test func errorsAreAnsweredAndLoggedOnce() throws {
        let engine = ScriptedEngine(script: .init(repeating: -Int(EIO), count: 4))
        let driver = try driver(try disk(), engine)
        for type in [BlockProtocol.read, BlockProtocol.read, BlockProtocol.flush] {
            let buffers: [Buffer] = type == BlockProtocol.read ? [.into(Self.data, 512)] : []
            #expect(try driver.run(type, buffers) == BlockProtocol.ioError)
        }
        #expect(try driver.run(BlockProtocol.write, [.out(Self.data, 512)]) == BlockProtocol.ioError)
        #expect(driver.guest.log.all.count == 1)
        #expect(driver.guest.log.all.first?.contains("Input/output error") == true)
        #expect(try driver.run(BlockProtocol.read, [.into(Self.data, 512)]) == BlockProtocol.ok)
    }

    private static let hasDirect = (try? TemporaryDisk(byteCount: 4096).open().isDirect) == true

    /// Direct I/O with an alignment that the file system did not tell of.
    @Test(.enabled(if: hasDirect, "no O_DIRECT in /var/tmp")) func fallsBackToThePageCache() throws {
        let disk = try disk()
        let engine = ScriptedEngine(script: [-Int(EINVAL), nil, -Int(EINVAL), -Int(EINVAL)])
        let driver = try driver(disk, engine)
        #expect(try driver.run(BlockProtocol.read, [.into(Self.data, 4096)]) == BlockProtocol.ok)
        #expect(engine.calls.count == 2)
        #expect(engine.calls[0].file != engine.calls[1].file)
        #expect(try driver.run(BlockProtocol.read, [.into(Self.data, 4096)]) == BlockProtocol.ioError)
        #expect(engine.calls.count == 4)
    }

    @Test func saysHonestlyWhatAFileSystemCannot() throws {
        let engine = ScriptedEngine(script: .init(repeating: -Int(EOPNOTSUPP), count: 4))
        let driver = try driver(try disk(), engine)
        #expect(try driver.range(BlockProtocol.discard, sector: 0, count: 8) == BlockProtocol.unsupported)
        #expect(try driver.range(BlockProtocol.writeZeroes, sector: 0, count: 8) == BlockProtocol.unsupported)
        #expect(try driver.range(BlockProtocol.writeZeroes, sector: 0, count: 8, flags: 1) == BlockProtocol.unsupported)
        #expect(engine.calls.map(\.mode) == [CUR_PUNCH_HOLE, CUR_ZERO_RANGE, CUR_PUNCH_HOLE, CUR_ZERO_RANGE])
    }

    /// A flush is answered after the file system's, which began after the write before it was answered.
    @Test func flushComesAfterWrites() throws {
        let engine = ScriptedEngine()
        let driver = try driver(try disk(), engine)
        #expect(try driver.run(BlockProtocol.write, [.out(Self.data, 4096)]) == BlockProtocol.ok)
        engine.hold()
        driver.queue(BlockProtocol.flush)
        driver.guest.kickIfWanted()
        #expect(eventually { engine.names == ["write", "synchronize"] })
        #expect(driver.answer() == 0xEE)
        #expect(driver.guest.take() == nil)
        engine.release()
        _ = try driver.guest.awaitByInterrupt()
        #expect(driver.answer() == BlockProtocol.ok)
    }

    @Test func writesThroughWithoutFlush() throws {
        let engine = ScriptedEngine()
        let driver = try driver(try disk(), engine, features: Feature.version1)
        #expect(try driver.run(BlockProtocol.write, [.out(Self.data, 4096)]) == BlockProtocol.ok)
        #expect(engine.names == ["write", "synchronize"])
        #expect(try driver.run(BlockProtocol.read, [.into(Self.data, 4096)]) == BlockProtocol.ok)
        #expect(engine.names == ["write", "synchronize", "read"])
    }

    /// `quiesce` comes back when the last request in flight is answered, and takes no new one.
    @Test func quiesceWaits() throws {
        let engine = ScriptedEngine()
        let driver = try driver(try disk(), engine)
        engine.hold()
        let first = driver.queue(BlockProtocol.read, [.into(Self.data, 4096)], slot: 0)
        driver.queue(BlockProtocol.read, [.into(Self.data + 4096, 4096)], slot: 1)
        driver.guest.kickIfWanted(added: 2)
        #expect(eventually { engine.calls.count == 2 })
        let device = driver.guest.device
        let isQuiet = Mutex(false)
        let thread = TestThread {
            device.quiesce()
            isQuiet.withLock { $0 = true }
        }
        usleep(20_000)
        #expect(!isQuiet.withLock { $0 })
        let late = driver.queue(BlockProtocol.read, [.into(Self.data + 8192, 4096)], slot: 2)
        driver.guest.kick()
        engine.release()
        thread.join()
        #expect(driver.guest.usedIndex == 2)
        #expect(engine.calls.count == 2)
        #expect(try driver.guest.await().head == first)
        _ = try driver.guest.await()
        device.unquiesce()
        #expect(try driver.guest.await().head == late)
    }

    /// A reset waits too: memory that the driver takes back is not written any more.
    @Test func resetWaits() throws {
        let engine = ScriptedEngine()
        let driver = try driver(try disk(), engine)
        engine.hold()
        driver.queue(BlockProtocol.read, [.into(Self.data, 4096)])
        driver.guest.kickIfWanted()
        #expect(eventually { engine.calls.count == 1 })
        let device = driver.guest.device
        let thread = TestThread { device.writeRegister(offset: MMIORegister.status, size: 4, value: 0) }
        usleep(20_000)
        #expect(driver.guest.status == 15)
        engine.release()
        thread.join()
        #expect(driver.guest.status == 0)
    }

    /// What a read brought is marked before the driver can know of it.
    @Test func marksBeforeItPublishes() throws {
        let driver = try driver(try disk(), ScriptedEngine())
        #expect(try driver.run(BlockProtocol.read, [.into(Self.data, 8192)]) == BlockProtocol.ok)
        let marks = driver.guest.memory.marksInOrder
        let data = try #require(marks.firstIndex(of: Self.data))
        let published = try #require(marks.firstIndex(of: driver.guest.queues[0].used + 2))
        #expect(data < published)
    }
}

/// A plain thread, waited for.
final class TestThread {
    private var handle = pthread_t()

    private final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    init(_ body: @escaping @Sendable () -> Void) {
        let context = Unmanaged.passRetained(Body(body)).toOpaque()
        pthread_create(&handle, nil, testThreadMain, context)
    }

    func join() { pthread_join(handle, nil) }

    fileprivate static func run(_ context: UnsafeMutableRawPointer) {
        Unmanaged<Body>.fromOpaque(context).takeRetainedValue().run()
    }
}

private func testThreadMain(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    if let context { TestThread.run(context) }
    return nil
}
