/// Strangers at a receiver's door: each is turned away, and the next real migration goes through.

import Glibc
import Migrate
import Synchronization
import Testing

extension HostileTests {
    @Suite(.serialized) struct HostileDoorTests {
        /// Moves a machine to `receiving`, to see that it still works.
        private static func moveAfterwards(to receiving: Receiving, _ what: String, lanes: Int = 2) throws {
            let source = try Hostile.source(mebibytes: 3)
            let outgoing = OutgoingMigration(
                machine: source, destination: receiving.endpoint,
                options: MigrationOptions(lanes: lanes, timeouts: Hostile.timeouts), logger: receiving.log.logger)
            let report = outgoing.run()
            check(report.outcome == .completed, "\(what): \(report.error ?? "")\n\(receiving.log.text)")
            check(source.fingerprint() == receiving.machine?.fingerprint(), "\(what)")
            receiving.end()
        }

        private static let strangers: [(String, @Sendable (inout StreamForge) -> [UInt8])] = [
            (
                "garbage",
                { _ in
                    var generator = Xorshift(seed: 5)
                    return (0..<5000).map { _ in UInt8(truncatingIfNeeded: generator.next()) }
                }
            ),
            ("HTTP", { _ in Array("GET /status HTTP/1.1\r\nHost: example.org\r\nAccept: */*\r\n\r\n".utf8) }),
            ("TLS", { _ in [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xFC] + Array(repeating: 7, count: 200) }),
            ("a header alone", { $0.header }),
            ("half a record", { Array(($0.header + $0.hello(session: Array(repeating: 1, count: 16))).dropLast(3)) }),
            ("pages first", { $0.header + $0.rawPages(first: 0, fill: [1]) }),
            ("END first", { $0.header + $0.end(pages: 0) }),
            ("no lanes", { $0.header + $0.hello(session: Array(repeating: 1, count: 16), lanes: 0) }),
            ("17 lanes", { $0.header + $0.hello(session: Array(repeating: 1, count: 16), lanes: 17) }),
            (
                "HELLO twice",
                {
                    let session = [UInt8](repeating: 1, count: 16)
                    return $0.header + $0.hello(session: session) + $0.hello(session: session)
                }
            ),
            (
                "a record of 4 GiB",
                {
                    $0.header + $0.record(16, [1, 2, 3], length: 0xFFFF_FFFF)
                }
            ),
            (
                "a CONFIGURATION of 16 MiB that never comes",
                {
                    $0.header + $0.hello(session: Array(repeating: 1, count: 16)) + $0.record(1, [1], length: 16 << 20)
                }
            ),
            ("an unknown mandatory record", { $0.header + $0.record(4711, [1, 2, 3]) }),
            (
                "unknown optional records and no more",
                {
                    var bytes = $0.header
                    for _ in 0..<100 { bytes += $0.record(4711, [1, 2, 3], flags: 1) }
                    return bytes
                }
            ),
            ("unknown flags", { $0.header + $0.record(16, [1], flags: 0x8000) }),
            ("the wrong sequence", { $0.header + $0.record(16, [1], sequence: 9) }),
            (
                "a lane without a session",
                {
                    $0.header
                        + $0.lane(
                            session: Array(repeating: 1, count: 16), number: 0, secret: Array(repeating: 0, count: 32))
                }
            ),
            ("a REJOIN without a session", { $0.header + $0.rejoin(session: Array(repeating: 1, count: 16)) }),
            (
                "no memory",
                {
                    $0.header + $0.hello(session: Array(repeating: 1, count: 16)) + $0.configuration(regions: [])
                }
            ),
            (
                "memory beyond the address space",
                {
                    $0.header + $0.hello(session: Array(repeating: 1, count: 16))
                        + $0.configuration(regions: [(0xFFFF_FFFF_FFFF_F000, 0x2000)])
                }
            ),
            (
                "memory that overlaps",
                {
                    $0.header + $0.hello(session: Array(repeating: 1, count: 16))
                        + $0.configuration(regions: [(0, 8192), (4096, 4096)])
                }
            ),
            (
                "half a page",
                {
                    $0.header + $0.hello(session: Array(repeating: 1, count: 16))
                        + $0.configuration(regions: [(0, 100)])
                }
            ),
            (
                "large pages",
                {
                    $0.header + $0.hello(session: Array(repeating: 1, count: 16)) + $0.configuration(pageSize: 16384)
                }
            ),
            (
                "a million vCPUs",
                {
                    $0.header + $0.hello(session: Array(repeating: 1, count: 16)) + $0.configuration(vcpus: 1 << 20)
                }
            ),
        ]

        @Test(.timeLimit(.minutes(3))) func strangersAreTurnedAway() async throws {
            try await hostile {
                let receiving = try Receiving()
                var sockets: [(String, RawSocket)] = []
                for (index, (name, make)) in Self.strangers.enumerated() {
                    let socket = try RawSocket(receiving.endpoint)
                    var forge = StreamForge(identifier: UInt8(index))
                    socket.send(make(&forge))
                    sockets.append((name, socket))
                }
                for (name, socket) in sockets {
                    check(socket.isClosed(within: 15_000), "\(name) is still connected")
                }
                check(receiving.machine == nil, "no VM was built for a stranger")
                try Self.moveAfterwards(to: receiving, "after the strangers")
            }
        }

        @Test(.timeLimit(.minutes(2))) func oneByteAtATimeDoesNotHoldTheDoor() async throws {
            try await hostile {
                let receiving = try Receiving()
                let socket = try RawSocket(receiving.endpoint)
                var forge = StreamForge()
                let begun = MonotonicInstant.now
                let bytes = forge.header + forge.hello(session: Array(repeating: 1, count: 16))
                for byte in bytes {
                    guard socket.send([byte]) else { break }
                    usleep(100_000)
                }
                check((MonotonicInstant.now - begun).inSeconds < 8, "the handshake's time is limited as a whole")
                check(socket.isClosed(within: 10_000))
                try Self.moveAfterwards(to: receiving, "after the slow one")
            }
        }

        /// The peer can read why: a refusal is a record of version 1.
        @Test(.timeLimit(.minutes(2))) func aNewerVersionIsRefusedWithBothVersionsNamed() async throws {
            try await hostile {
                let receiving = try Receiving()
                var forge = StreamForge()
                forge.version = 7
                let socket = try RawSocket(receiving.endpoint)
                socket.send(forge.header + forge.hello(session: Array(repeating: 1, count: 16)) + forge.configuration())
                let answer = String(decoding: socket.receiveAll(), as: UTF8.self)
                check(answer.contains("version 7"), "\(answer.utf8.count) bytes came")
                check(answer.contains("versions 1 to 1"))
                check(receiving.log.text.contains("version 7"))
                try Self.moveAfterwards(to: receiving, "after the newer one")
            }
        }

        @Test(.timeLimit(.minutes(2))) func threeHundredSilentConnectionsDoNotKeepAMigrationOut() async throws {
            try await hostile {
                let receiving = try Receiving()
                let silent = try (0..<300).map { _ in try RawSocket(receiving.endpoint) }
                try Self.moveAfterwards(to: receiving, "among silent ones")
                _ = silent
            }
        }

        @Test(.timeLimit(.minutes(2))) func aStormOfConnectionsDoesNotKeepAMigrationOut() async throws {
            try await hostile {
                let receiving = try Receiving()
                let isOver = Mutex(false)
                let endpoint = receiving.endpoint
                let storm = try (0..<4).map { number in
                    try PlainThread(name: "storm") {
                        var count = 0
                        while !isOver.withLock({ $0 }) {
                            guard let socket = try? RawSocket(endpoint) else { continue }
                            if count % 3 == 0 { socket.send([1, 2, 3]) }
                            if count % 3 == 1 { socket.reset() }
                            count += 1
                            usleep(2000)
                        }
                    }
                }
                usleep(100_000)
                try Self.moveAfterwards(to: receiving, "in a storm")
                isOver.withLock { $0 = true }
                storm.forEach { $0.join() }
            }
        }

        @Test(.timeLimit(.minutes(2))) func aSecondSenderIsRefusedAndTheFirstGoesOn() async throws {
            try await hostile {
                let receiving = try Receiving()
                let first = try Hostile.source(mebibytes: 16, share: 0.5)
                var limits = MigrationLimits()
                limits.maxBandwidth = 4 << 20
                let outgoing = OutgoingMigration(
                    machine: first, destination: receiving.endpoint,
                    options: MigrationOptions(lanes: 2, limits: limits, timeouts: Hostile.timeouts),
                    logger: receiving.log.logger)
                let report = Mutex<MigrationReport?>(nil)
                let thread = try PlainThread(name: "first") {
                    report.withLock { $0 = nil }; let r = outgoing.run(); report.withLock { $0 = r }
                }
                while (receiving.incoming.progress?.pagesReceived ?? 0) < 100 { usleep(10_000) }
                let second = try Hostile.source(mebibytes: 3)
                let refused = OutgoingMigration(
                    machine: second, destination: receiving.endpoint,
                    options: MigrationOptions(lanes: 1, timeouts: Hostile.timeouts), logger: receiving.log.logger
                ).run()
                check(refused.outcome == .refused)
                check(refused.error?.contains("another VM is being received") == true, "\(refused.error ?? "")")
                check(second.isRunning)
                outgoing.update(limits: MigrationLimits())
                thread.join()
                let ended = try require(report.withLock { $0 })
                check(ended.outcome == .completed, "\(ended.error ?? "")")
                check(first.fingerprint() == receiving.machine?.fingerprint())
                receiving.end()
            }
        }

        /// A source that vanishes between its offer and the answer must not leave a receiver that waits for ever.
        @Test(.timeLimit(.minutes(2))) func aSourceThatVanishesAfterItsOfferIsForgotten() async throws {
            try await hostile {
                for round in 0..<10 {
                    let receiving = try Receiving()
                    let socket = try RawSocket(receiving.endpoint)
                    var forge = StreamForge(identifier: UInt8(round))
                    socket.send(
                        forge.header + forge.hello(session: Array(repeating: 1, count: 16)) + forge.configuration())
                    usleep(useconds_t(round * 300))
                    socket.reset()
                    let deadline = MonotonicInstant.now + .seconds(20)
                    while receiving.result == nil, receiving.machine != nil, MonotonicInstant.now < deadline {
                        usleep(20_000)
                    }
                    if receiving.machine != nil {
                        guard case .failure? = receiving.result else {
                            check(false, "the receiver still waits:\n\(receiving.log.text)")
                            continue
                        }
                    }
                    receiving.end()
                }
            }
        }
    }
}
