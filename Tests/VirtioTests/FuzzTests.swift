/// Random drivers and random states, from seeds: a failure names its seed.

import Glibc
import Testing
import VMState
import Virtio

struct FuzzTests {
    enum Kind: String, CaseIterable, Sendable { case block, blockByCalls, network, console, entropy, balloon }

    private func backend(_ kind: Kind, _ disk: TemporaryDisk) throws -> any VirtioBackend {
        switch kind {
        case .block: return BlockDevice(file: try disk.open())
        case .blockByCalls: return BlockDevice(file: try disk.open(), allowsRing: false)
        case .network:
            let mac = try #require(MACAddress([2, 0, 0, 0, 0, 1]))
            return NetworkDevice(port: try NetworkPort(adopting: try loop(), name: "fuzz"), mac: mac)
        case .console: return ConsoleDevice(output: { _ in })
        case .entropy: return EntropyDevice()
        case .balloon: return BalloonDevice()
        }
    }

    /// A socket whose frames come back: it is its own peer.
    private func loop() throws -> CInt {
        let file = socket(AF_UNIX, CInt(SOCK_DGRAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        // A name of the kernel's choice, in the abstract space: an address of the family alone.
        let bound = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(file, $0, socklen_t(MemoryLayout<sa_family_t>.size))
            }
        }
        try #require(bound == 0)
        var length = socklen_t(MemoryLayout<sockaddr_un>.size)
        let connected = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { own in
                getsockname(file, own, &length)
                return connect(file, own, length)
            }
        }
        try #require(connected == 0)
        return file
    }

    /// MIGRATECTL_FUZZ_SECONDS asks for more.
    private static let seconds = getenv("MIGRATECTL_FUZZ_SECONDS").flatMap { Int(String(cString: $0)) } ?? 3
    /// MIGRATECTL_FUZZ_SEED begins elsewhere.
    private static let firstSeed = getenv("MIGRATECTL_FUZZ_SEED").flatMap { UInt64(String(cString: $0)) } ?? 17

    /// Seeds that once found something come first (none yet), then as many as there is time for, but always some.
    private static let corpus: [UInt64] = [1, 2, 3]

    @Test(arguments: Kind.allCases)
    func survivesRandomDrivers(_ kind: Kind) throws {
        let disk = try TemporaryDisk(byteCount: 1 << 20)
        let end = time(nil) + Self.seconds
        var seed: UInt64 = 0
        while seed < UInt64(Self.corpus.count) || time(nil) < end {
            var generator = SeededGenerator(
                state: seed < UInt64(Self.corpus.count) ? Self.corpus[Int(seed)] : seed &* 0x1000 &+ Self.firstSeed)
            let bytes = (0..<2048).map { _ in UInt8.random(in: 0...255, using: &generator) }
            let page = try fuzzDevice(bytes) { try backend(kind, disk) }
            #expect(page == nil, "\(kind) with seed \(seed): a page was changed and not marked")
            seed += 1
        }
    }

    /// Flips bits in, cuts and extends encoded states: each is refused, or gives a device that works on.
    @Test func survivesRandomStates() throws {
        let driver = try GuestDriver(ConsoleDevice(output: { _ in }))
        try driver.start(queueCount: 2)
        driver.device.quiesce()
        let good = try driver.device.save()
        var generator = SeededGenerator(state: 7)
        for _ in 0..<3000 {
            var bytes = good
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                let place = Int.random(in: 0..<bytes.count, using: &generator)
                bytes[place] ^= 1 << UInt8.random(in: 0...7, using: &generator)
            }
            if Int.random(in: 0..<4, using: &generator) == 0 {
                bytes = Array(bytes.prefix(Int.random(in: 0...bytes.count, using: &generator)))
            }
            let device = try VirtioDevice(
                backend: ConsoleDevice(output: { _ in }), memory: driver.memory, setInterrupt: { _ in })
            guard (try? device.load(bytes, version: 1)) != nil else { continue }
            device.unquiesce()
            device.writeRegister(offset: MMIORegister.queueNotify, size: 4, value: 0)
            device.quiesce()
            _ = try device.save()
        }
    }
}
