/// A source that says wrong things in right records: everything that a checksum cannot catch.

import Glibc
import Migrate
import Synchronization
import Testing

/// A source made by hand. One control connection, and lanes as wanted.
final class ForgedSource {
    let receiving: Receiving
    let session = SessionIdentifier(high: 3, low: 4)
    let control: RawSocket
    var forge = StreamForge(identifier: 40)
    private(set) var secret: [UInt8] = []
    /// Kept open until the source goes, as a real source would: a lane that nobody holds is closed at once in release
    /// builds, and a hand-over that is refused for that proves nothing.
    private var lanes: [ForgedLane] = []
    /// Records that came on the control connection.
    private var splitter = RecordSplitter()

    /// Offers 4 MiB and 1 MiB of memory, and reads WELCOME.
    init(lanes: Int = 2, regions: [(UInt64, UInt64)] = [(0, 4 << 20), (1 << 32, 1 << 20)]) throws {
        // It says nothing while it waits, and a busy machine takes its time.
        receiving = try Receiving(
            options: ReceiveOptions(timeouts: HandOverTimeouts(silence: .seconds(10)), handshakeTimeout: .seconds(10)))
        control = try RawSocket(receiving.endpoint)
        control.send(forge.header + forge.hello(session: session.bytes, lanes: lanes))
        control.send(forge.configuration(regions: regions))
        let welcome = try require(next(17))
        secret = Array(welcome[40..<72])
    }

    /// The next record of a type on the control connection; nil when the connection ended first.
    func next(_ type: Int) -> [UInt8]? {
        while true {
            let bytes = control.receive()
            guard !bytes.isEmpty else { return nil }
            for piece in splitter.feed(bytes) where piece.count >= 24 && piece.recordType == type { return piece }
        }
    }

    func lane(_ number: Int, secret other: [UInt8]? = nil, session: SessionIdentifier? = nil) throws -> ForgedLane {
        let lane = try ForgedLane(receiving.endpoint, (session ?? self.session).bytes, number, other ?? secret)
        lanes.append(lane)
        return lane
    }

    func say(_ body: HandOverMessage.Body, attempt: UInt32 = 1, digest: UInt64) {
        let message = HandOverMessage(
            session: session, attempt: AttemptNumber(attempt), digest: MemoryDigest(digest), body: body)
        control.send(forge.handover(message))
    }

    /// What the receiver said against it, once it has.
    func refusal() -> String {
        guard let record = next(18) else { return "(none)" }
        return String(decoding: record[32...], as: UTF8.self)
    }
}

final class ForgedLane {
    let socket: RawSocket
    var forge: StreamForge
    /// The answer: LANE-READY or REFUSAL.
    let answer: [UInt8]

    init(_ endpoint: Endpoint, _ session: [UInt8], _ number: Int, _ secret: [UInt8]) throws {
        socket = try RawSocket(endpoint)
        forge = StreamForge(identifier: UInt8(50 + number % 100))
        socket.send(forge.header + forge.lane(session: session, number: number, secret: secret))
        var splitter = RecordSplitter()
        var pieces: [[UInt8]] = []
        while pieces.count < 2 {
            let bytes = socket.receive()
            if bytes.isEmpty { break }
            pieces += splitter.feed(bytes)
        }
        answer = pieces.count > 1 ? pieces[1] : []
    }

    var isAccepted: Bool { answer.count > 24 && answer.recordType == 20 }
}

extension HostileTests {
    @Suite(.serialized) struct HostileSenderTests {
        private static let lies: [(String, String, @Sendable (inout StreamForge) -> [UInt8])] = [
            ("outside of the region", "outside of the VM's memory", { $0.zeroPages(first: 1020, count: 10) }),
            ("far outside", "outside of the VM's memory", { $0.zeroPages(first: 1 << 49, count: 10) }),
            ("the last number", "make no sense", { $0.zeroPages(first: .max, count: 1) }),
            ("no such region", "outside of the VM's memory", { $0.zeroPages(region: 7, first: 0, count: 1) }),
            ("raw outside", "outside of the VM's memory", { $0.rawPages(first: 1023, fill: [1, 2]) }),
            ("another lane's page", "belongs to another lane", { $0.rawPages(first: 512, fill: [1]) }),
            ("across stripes", "belongs to another lane", { $0.zeroPages(first: 500, count: 20) }),
            ("no pages", "make no sense", { $0.zeroPages(first: 0, count: 0) }),
            ("four billion pages", "outside of the VM's memory", { $0.zeroPages(first: 0, count: 0xFFFF_FFFF) }),
            ("a reserved field", "make no sense", { $0.zeroPages(first: 0, count: 1, reserved: 1) }),
            ("an unknown encoding", "encoding 3", { $0.record(2, Bytes().u16(0).u8(3).u8(0).u32(1).u64(0).all) }),
            (
                "a raw page that is not its hash", "do not match their hash",
                { forge in
                    var record = forge.rawPages(first: 0, fill: [1])
                    record[record.count - 1] ^= 1
                    return record
                }
            ),
            (
                "raw pages cut short", "cannot hold",
                {
                    $0.record(2, Bytes().u16(0).u8(2).u8(0).u32(9).u64(0).raw(Array(repeating: 0, count: 72)).all)
                }
            ),
            ("an epoch that counts wrong", "counts 5 pages", { $0.epoch(1, pages: 5, zeroPages: 0) }),
            ("an epoch too far", "marker 2", { $0.epoch(2, pages: 0, zeroPages: 0) }),
            ("END that counts wrong", "END counts 9 pages", { $0.end(pages: 9) }),
            ("a record of the control connection", "STATE", { $0.state("model", [1]) }),
            ("an unknown mandatory record", "type 99", { $0.record(99, [1]) }),
            ("unknown flags", "flags", { $0.record(21, Bytes().u64(1).u64(0).u64(0).all, flags: 4) }),
            (
                "a repeated record", "was expected",
                { $0.zeroPages(first: 0, count: 1) + $0.record(21, [], sequence: 1) }
            ),
            ("fields and more", "behind the last field", { $0.record(21, Array(repeating: 0, count: 25)) }),
        ]

        @Test(.timeLimit(.minutes(2)), arguments: lies.indices)
        func aLieOnALaneEndsTheSessionAndSaysWhy(_ index: Int) async throws {
            try await hostile {
                let (name, expected, make) = Self.lies[index]
                let source = try ForgedSource()
                let lane = try source.lane(0)
                check(lane.isAccepted)
                lane.socket.send(make(&lane.forge))
                let reason = source.refusal()
                check(reason.contains(expected), "\(name): \(reason)")
                check(source.control.isClosed(within: 5000), "\(name)")
                check(source.receiving.machine?.isRunning == false, "\(name)")
                source.receiving.end()
            }
        }

        @Test(.timeLimit(.minutes(2))) func onlyTheLanesThatWereGrantedComeIn() async throws {
            try await hostile {
                let source = try ForgedSource(lanes: 2)
                var wrong = source.secret
                wrong[31] ^= 1
                try check(!source.lane(0, secret: wrong).isAccepted, "a wrong secret")
                try check(!source.lane(0, session: SessionIdentifier(high: 1, low: 1)).isAccepted, "another session")
                try check(!source.lane(2).isAccepted, "a lane too many")
                try check(!source.lane(65535).isAccepted, "a lane far too many")
                try check(source.lane(1).isAccepted)
                try check(!source.lane(1).isAccepted, "the same lane again")
                // Many at once: one wins.
                let accepted = Mutex(0)
                let endpoint = source.receiving.endpoint
                let (session, secret) = (source.session.bytes, source.secret)
                let threads = try (0..<8).map { _ in
                    try PlainThread(name: "lane") {
                        if let lane = try? ForgedLane(endpoint, session, 0, secret), lane.isAccepted {
                            accepted.withLock { $0 += 1 }
                            // Held, so that it is not its end that lets the next one in.
                            usleep(300_000)
                        }
                    }
                }
                threads.forEach { $0.join() }
                check(accepted.withLock { $0 } == 1)
                source.receiving.end()
            }
        }

        /// A hand-over that is not entitled to what it asks for.
        private static let claims: [(String, @Sendable (ForgedSource) throws -> Void)] = [
            ("COMMIT at once", { $0.say(.commit, attempt: 0, digest: 0) }),
            ("COMMIT of an attempt that never was", { $0.say(.commit, digest: 7) }),
            (
                "FINAL without anything",
                { source in
                    source.say(.final(.preCopy), digest: 7)
                    source.say(.commit, digest: 7)
                }
            ),
            (
                "FINAL without lanes",
                { source in
                    source.control.send(source.forge.state("model", Array(repeating: 0, count: 8)))
                    source.control.send(source.forge.digest(7, pages: 1280, epoch: 1))
                    source.say(.final(.preCopy), digest: 7)
                    source.say(.commit, digest: 7)
                }
            ),
            (
                "a digest of other pages",
                { source in
                    source.control.send(source.forge.digest(7, pages: 3, epoch: 0))
                    source.say(.final(.preCopy), digest: 7)
                    source.say(.commit, digest: 7)
                }
            ),
            (
                "the wrong digest",
                { source in
                    let lanes = try [source.lane(0), source.lane(1)]
                    for lane in lanes { lane.socket.send(lane.forge.epoch(1, pages: 0, zeroPages: 0)) }
                    source.control.send(source.forge.state("model", Array(repeating: 0, count: 8)))
                    source.control.send(source.forge.digest(7, pages: 1280, epoch: 1))
                    source.say(.final(.preCopy), digest: 7)
                    usleep(200_000)
                    source.say(.commit, digest: 7)
                }
            ),
            (
                "two digests",
                { source in
                    let lanes = try [source.lane(0), source.lane(1)]
                    for lane in lanes { lane.socket.send(lane.forge.epoch(1, pages: 0, zeroPages: 0)) }
                    source.control.send(source.forge.digest(ForgedSource.zeroDigest, pages: 1280, epoch: 1))
                    source.say(.final(.preCopy), digest: 7)
                    usleep(200_000)
                    source.say(.commit, digest: 7)
                }
            ),
            (
                "no state",
                { source in
                    let lanes = try [source.lane(0), source.lane(1)]
                    for lane in lanes { lane.socket.send(lane.forge.epoch(1, pages: 0, zeroPages: 0)) }
                    source.control.send(source.forge.digest(ForgedSource.zeroDigest, pages: 1280, epoch: 1))
                    source.say(.final(.preCopy), digest: ForgedSource.zeroDigest)
                    usleep(200_000)
                    source.say(.commit, digest: ForgedSource.zeroDigest)
                }
            ),
            (
                "pages behind the marker",
                { source in
                    let lanes = try [source.lane(0), source.lane(1)]
                    for lane in lanes {
                        lane.socket.send(lane.forge.epoch(1, pages: 0, zeroPages: 0))
                    }
                    lanes[0].socket.send(lanes[0].forge.zeroPages(first: 0, count: 1))
                    usleep(100_000)
                    source.control.send(source.forge.state("model", Array(repeating: 0, count: 8)))
                    source.control.send(source.forge.digest(ForgedSource.zeroDigest, pages: 1280, epoch: 1))
                    source.say(.final(.preCopy), digest: ForgedSource.zeroDigest)
                    usleep(200_000)
                    source.say(.commit, digest: ForgedSource.zeroDigest)
                }
            ),
        ]

        @Test(.timeLimit(.minutes(2)), arguments: claims.indices)
        func aHandOverThatIsNotEntitledRunsNothing(_ index: Int) async throws {
            try await hostile {
                let (name, claim) = Self.claims[index]
                let source = try ForgedSource()
                try claim(source)
                usleep(300_000)
                check(source.receiving.machine?.isRunning == false, "\(name): \(source.receiving.log.text)")
                source.receiving.end()
            }
        }

        /// The counterpart of the claims above: with everything right, the forged machine runs.
        @Test(.timeLimit(.minutes(2)))
        func aForgedHandOverWithEverythingRightRuns() async throws {
            try await hostile {
                let source = try ForgedSource()
                let lanes = try [source.lane(0), source.lane(1)]
                for lane in lanes { lane.socket.send(lane.forge.record(4711, [1], flags: 1)) }
                for lane in lanes { lane.socket.send(lane.forge.epoch(1, pages: 0, zeroPages: 0)) }
                source.control.send(source.forge.record(4711, [1, 2], flags: 1))
                source.control.send(source.forge.state("model", [42, 0, 0, 0, 0, 0, 0, 0]))
                source.control.send(source.forge.digest(ForgedSource.zeroDigest, pages: 1280, epoch: 1))
                source.say(.final(.preCopy), digest: ForgedSource.zeroDigest)
                let ready = try require(source.next(23))
                check(!ready.isEmpty)
                var hasEnded = false
                for _ in 0..<50 where !hasEnded {
                    source.say(.commit, digest: ForgedSource.zeroDigest)
                    usleep(20_000)
                    hasEnded = source.receiving.machine?.isRunning == true
                }
                check(source.receiving.machine?.isRunning == true, "\(source.receiving.log.text)")
                check(source.receiving.machine?.counter == 42)
                source.say(.done, digest: ForgedSource.zeroDigest)
                source.receiving.end()
            }
        }

        /// State sections without end must not eat the destination's memory.
        @Test(.timeLimit(.minutes(2))) func aFloodOfStateIsRefused() async throws {
            try await hostile {
                let source = try ForgedSource()
                var sent = 0
                while sent < 20_000, source.control.send(source.forge.state("x", [1])) { sent += 1 }
                let reason = source.refusal()
                check(reason.contains("state") || sent < 20_000, "\(reason)")
                check(source.control.isClosed(within: 5000))
                source.receiving.end()
            }
        }
    }
}

extension ForgedSource {
    /// The digest of 1024 and 256 pages of zeros, by the format's document.
    static let zeroDigest: UInt64 = {
        let hash = StreamForge.hash(Array(repeating: 0, count: 4096))
        var sum: UInt64 = 0
        for (region, count) in [1024, 256].enumerated() {
            for page in 0..<count {
                let number = UInt64(region) << 48 | UInt64(page)
                let x = (hash ^ (number &* 0x9E37_79B9_7F4A_7C15)) &* 0xD6E8_FEB8_6659_FD93
                sum &+= x ^ (x >> 32)
            }
        }
        return sum
    }()
}
