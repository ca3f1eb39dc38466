/// Every record: what is encoded is decoded again, and what is not a record is refused.

import Migrate
import Testing
import Units

@Suite struct RecordTests {
    private static func random(_ generator: inout Xorshift) -> [Record] {
        func word() -> UInt64 { generator.next() }
        func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8(truncatingIfNeeded: word()) } }
        func text(_ limit: UInt64) -> String {
            String((0..<1 + word() % limit).map { _ in Character(["a", "Z", "0", ".", "-"][Int(word() % 5)]) })
        }
        let session = SessionIdentifier(high: word(), low: word())
        var lowest: UInt64 = 0
        let memory = (0..<1 + word() % 64).map { _ in
            let address = lowest + word() % 100 * 4096
            let length = (1 + word() % 1000) * 4096
            lowest = address + length
            return MachineConfiguration.Memory(guestAddress: GuestAddress(address), byteCount: length)
        }
        let settings = word() % 2 == 0 ? 0 : 200
        let machine = MachineConfiguration(
            name: text(64), identifier: bytes(16), memory: memory, vcpuCount: Int(1 + word() % 1024),
            cpuPolicy: bytes(Int(word() % 5000)),
            devices: (0..<word() % 256).map { _ in
                MachineConfiguration.Device(
                    name: text(64), version: UInt32(truncatingIfNeeded: word()),
                    settings: settings == 0 ? [] : bytes(Int(word() % UInt64(settings))))
            })
        return [
            .configuration(machine),
            .state(StateSection(name: text(64), version: 3, bytes: bytes(Int(word() % 20_000)))),
            .digest(DigestRecord(digest: MemoryDigest(word()), pageCount: word(), epoch: word())),
            .end(StreamTotals(records: word(), pages: word())),
            .hello(Hello(session: session, lanes: UInt16(1 + word() % 16), program: text(200))),
            .welcome(
                Welcome(session: session, laneSecret: bytes(32), lanes: UInt16(1 + word() % 16), program: text(200))),
            .refusal(Refusal(Refusal.Code(rawValue: UInt16(1 + word() % 8)) ?? .busy, text(2000))),
            .lane(LaneGreeting(session: session, lane: UInt16(truncatingIfNeeded: word()), secret: bytes(32))),
            .laneReady(UInt16(truncatingIfNeeded: word())),
            .epoch(LaneEpoch(epoch: word(), pages: word(), zeroPages: word())),
            .epochSeen(LaneEpoch(epoch: word(), pages: word(), zeroPages: word())),
            .handover(
                HandOverMessage(
                    session: session, attempt: AttemptNumber(UInt32(truncatingIfNeeded: word())),
                    digest: MemoryDigest(word()), body: .ready)),
            .progress(
                ProgressRecord(
                    round: UInt32(truncatingIfNeeded: word()), pagesSent: word(), pagesTotal: word(),
                    bytesPerSecond: word())),
            .rejoin(session),
            .hello(
                Hello(
                    session: session, lanes: 1, needs: word() % 2 == 0 ? .paging : [.paging, .nothingBefore],
                    program: "p")),
            .pageSet(
                PageSetRecord(
                    region: UInt16(truncatingIfNeeded: word()),
                    attempt: AttemptNumber(UInt32(truncatingIfNeeded: word())),
                    firstPage: (word() >> 20) << 6, words: (0..<word() % 100).map { _ in word() })),
            .pagingLane(
                PagingLaneGreeting(
                    session: session, lane: UInt16(word() % 17), generation: UInt32(1 + word() % 1000),
                    secret: bytes(32))),
            .pageRequest(
                PageRequest(
                    region: UInt16(truncatingIfNeeded: word()), count: UInt32(1 + word() % 512), firstPage: word() >> 30
                )),
            .served(
                ServedRecord(
                    attempt: AttemptNumber(UInt32(truncatingIfNeeded: word())), pageCount: word(),
                    digest: MemoryDigest(word()))),
            .pagingTimes(PagingTimes(faults: word(), p50: word(), p99: word(), p999: word(), longest: word())),
            .clock(ClockRecord(realtimeNanoseconds: word(), boot: bytes(16))),
            .timings(
                DestinationTimings(lastPage: word(), load: word(), commitWait: word(), run: word(), firstEntry: word())),
        ]
    }

    @Test func whatIsEncodedIsDecodedAgain() throws {
        var generator = Xorshift(seed: 31)
        for _ in 0..<100 {
            for record in Self.random(&generator) {
                let payload = record.payload
                #expect(try Record(type: record.type, payload: payload, offset: 0) == record)
                // Nothing may be missing, nothing may follow.
                let cut = Int(generator.next() % UInt64(payload.count))
                #expect(throws: StreamError.self) {
                    try Record(type: record.type, payload: Array(payload.prefix(cut)), offset: 0)
                }
                #expect(throws: StreamError.self) {
                    try Record(type: record.type, payload: payload + [0], offset: 0)
                }
            }
        }
    }

    /// Whatever bytes come, decoding ends with a record or an error; and a record that was read is written the same.
    @Test func anyBytesAreARecordOrAnError() {
        var generator = Xorshift(seed: 8)
        for _ in 0..<20 {
            for record in Self.random(&generator) {
                for _ in 0..<10 {
                    var payload = record.payload
                    for _ in 0...generator.next() % 3 {
                        payload[Int(generator.next() % UInt64(payload.count))] = UInt8(
                            truncatingIfNeeded: generator.next())
                    }
                    guard let read = try? Record(type: record.type, payload: payload, offset: 0) else { continue }
                    // Of a refusal unknown codes and control characters are replaced.
                    if record.type != .refusal { #expect(read.payload == payload) }
                }
            }
        }
    }

    /// Whole streams with random damage: the reader ends each with an error, never by a trap, and hands out nothing
    /// that was not written.
    @Test func aDamagedStreamNeverYieldsAWrongRecord() throws {
        let (bytes, _) = InspectorTests.file()
        let whole = try Self.read(bytes)
        #expect(whole.error == nil)
        var generator = Xorshift(seed: 77)
        for _ in 0..<3000 {
            var damaged = bytes
            switch generator.next() % 4 {
            case 0: damaged = Array(damaged.prefix(Int(generator.next() % UInt64(bytes.count))))
            case 1: damaged.insert(7, at: Int(generator.next() % UInt64(bytes.count)))
            case 2: damaged.remove(at: Int(generator.next() % UInt64(bytes.count)))
            default: damaged[Int(generator.next() % UInt64(bytes.count))] ^= UInt8(1 + generator.next() % 255)
            }
            let read = try Self.read(damaged)
            #expect(read.error != nil || read.contents.count < whole.contents.count)
            #expect(Array(whole.contents.prefix(read.contents.count)) == read.contents)
        }
    }

    /// What a reader hands out, and how it ends.
    private static func read(_ bytes: [UInt8]) throws -> (contents: [[UInt8]], error: StreamError?) {
        var reader = RecordReader(ArraySource(bytes, portion: 5000))
        var contents: [[UInt8]] = []
        do {
            _ = try reader.readStreamHeader()
            while let next = try reader.next() {
                switch next {
                case .record(let record): contents.append([UInt8(record.type.rawValue)] + record.payload)
                case .pages(let head):
                    var memory = [UInt8](repeating: 0, count: head.encoding == .raw ? head.run.byteCount : 0)
                    if head.encoding == .raw { try memory.withUnsafeMutableBytes { try reader.readPages(into: $0) } }
                    contents.append(memory + [UInt8(truncatingIfNeeded: head.run.start.rawValue)])
                }
            }
            return (contents, nil)
        } catch let error as StreamError {
            return (contents, error)
        }
    }
}
