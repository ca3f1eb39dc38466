/// The inspector: what it explains, and which byte it blames.

import Migrate
import Testing

@Suite struct InspectorTests {
    struct Inspection {
        var header: InspectedHeader?
        var records: [InspectedRecord] = []
        var summary = InspectionSummary()
    }

    static func inspect(_ bytes: [UInt8], portion: Int = .max) throws -> Inspection {
        var inspector = StreamInspector(ArraySource(bytes, portion: portion)) { part in
            guard case .state(let section) = part else { return [] }
            return [InspectedField("first byte", "\(section.bytes.first ?? 0)")]
        }
        var result = Inspection()
        result.header = try inspector.readHeader()
        while let record = try inspector.next() { result.records.append(record) }
        result.summary = inspector.summary
        return result
    }

    /// A file of every kind of record that a file has, and where each begins.
    static func file() -> (bytes: [UInt8], offsets: [Int]) {
        var forge = StreamForge()
        var bytes = forge.header
        var offsets: [Int] = []
        func add(_ record: [UInt8]) {
            offsets.append(bytes.count)
            bytes += record
        }
        add(forge.configuration())
        add(forge.zeroPages(first: 0, count: 500))
        add(forge.rawPages(first: 600, fill: [1, 2, 3]))
        add(forge.rawPages(first: 700, contents: [(0..<4096).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 / 256) }]))
        add(forge.state("model", Array(repeating: 5, count: 300)))
        add(forge.digest(0x1234, pages: 1024))
        add(forge.end(pages: 504))
        return (bytes, offsets)
    }

    @Test(arguments: [1, 7, 4096, Int.max])
    func explainsAWholeFile(portion: Int) throws {
        let (bytes, offsets) = Self.file()
        let result = try Self.inspect(bytes, portion: portion)
        #expect(result.header?.version == 1)
        #expect(result.header?.identifier == "0102030405060708090a0b0c0d0e0f10")
        #expect(result.summary.isIntact, "\(result.summary)")
        #expect(result.records.map(\.offset) == offsets.map(UInt64.init))
        #expect(result.records.map(\.sequence) == Array(0...6))
        #expect(
            result.records.map(\.type) == ["CONFIGURATION", "PAGES", "PAGES", "PAGES", "STATE", "DIGEST", "END"])
        #expect(result.records[1].pages == InspectedPages(region: 0, firstPage: 0, count: 500, encoding: "zero"))
        #expect(result.records[2].pages == InspectedPages(region: 0, firstPage: 600, count: 3, encoding: "raw"))
        #expect(result.records[4].fields.last == InspectedField("  first byte", "5"))
        #expect(result.summary.pages == 504)
        #expect(result.summary.zeroPages == 500)
        #expect(result.summary.bytes == UInt64(bytes.count))
    }

    @Test func namesTheDamagedByteWhereverItIs() throws {
        let (bytes, _) = Self.file()
        var generator = Xorshift(seed: 2025)
        for _ in 0..<60 {
            let place = Int(generator.next() % UInt64(bytes.count))
            var damaged = bytes
            damaged[place] ^= 1 << UInt8(generator.next() % 8)
            let result = try Self.inspect(damaged)
            let first = try #require(result.summary.firstProblem, "byte \(place)")
            #expect(first.offset == UInt64(place), "\(first)")
            #expect(first.length == 1 || place < 16, "\(first)")
            #expect(!result.summary.isIntact)
        }
    }

    /// Damage in the one place that hides where the next record begins: the length.
    @Test func goesOnBehindADamagedRecord() throws {
        let (bytes, offsets) = Self.file()
        for field in [0, 8, 10, 12, 13, 16, 24, 30] {
            var damaged = bytes
            damaged[offsets[1] + field] ^= 0x40
            let result = try Self.inspect(damaged)
            #expect(result.records.count == offsets.count, "byte \(field): \(result.summary)")
            #expect(result.summary.hasEnd)
            #expect(result.summary.problems == 1, "byte \(field): \(result.summary)")
            #expect(result.summary.firstProblem?.offset == UInt64(offsets[1] + field))
        }
    }

    @Test func namesThePageWhenMoreThanAByteIsDamaged() throws {
        let (bytes, offsets) = Self.file()
        var damaged = bytes
        let page = offsets[2] + 24 + 16 + 3 * 8 + 4096
        for i in 100..<200 { damaged[page + i] = 0xEE }
        let result = try Self.inspect(damaged)
        let problem = try #require(result.summary.firstProblem)
        #expect(problem.offset == UInt64(page))
        #expect(problem.length == 4096)
        #expect(problem.message.contains("page 601 of region 0"))
        #expect(result.summary.problems == 1)
        #expect(result.summary.hasEnd)
    }

    @Test func namesTheRecordWhenMoreThanAByteIsDamaged() throws {
        let (bytes, offsets) = Self.file()
        var damaged = bytes
        for i in 40..<50 { damaged[offsets[4] + i] = 0xEE }
        let result = try Self.inspect(damaged)
        let problem = try #require(result.summary.firstProblem)
        #expect(problem.offset == UInt64(offsets[4]))
        #expect(problem.length == UInt64(offsets[5] - offsets[4]))
        // The record's length is sound, so the next one is found.
        #expect(result.summary.problems == 1)
        #expect(result.summary.hasEnd)
        // A header full of garbage hides it.
        damaged = bytes
        for i in 0..<24 { damaged[offsets[4] + i] = 0xEE }
        let hidden = try Self.inspect(damaged)
        #expect(hidden.summary.firstProblem?.offset == UInt64(offsets[4]))
        #expect(hidden.summary.firstProblem?.length == nil)
        #expect(hidden.summary.stopped != nil)
    }

    @Test func saysWhereATruncatedStreamEnds() throws {
        let (bytes, offsets) = Self.file()
        for length in Array(stride(from: 0, to: bytes.count, by: 97)) + offsets {
            let result = try Self.inspect(Array(bytes.prefix(length)))
            let problem = try #require(result.summary.firstProblem)
            #expect(problem.kind == .truncated, "\(length): \(problem)")
            #expect(problem.offset == UInt64(length))
            #expect(!result.summary.hasEnd)
        }
    }

    @Test func seesLostRepeatedAndForeignRecords() throws {
        let (bytes, offsets) = Self.file()
        let lost = try Self.inspect(Array(bytes[..<offsets[1]] + bytes[offsets[2]...]))
        #expect(lost.summary.firstProblem?.kind == .order)
        #expect(lost.summary.firstProblem?.offset == UInt64(offsets[1] + 16))
        #expect(lost.summary.hasEnd)
        let repeated = try Self.inspect(Array(bytes[..<offsets[2]] + bytes[offsets[1]...]))
        #expect(repeated.summary.firstProblem?.kind == .order)
        var other = StreamForge(identifier: 77)
        _ = other.configuration()
        let foreign = other.zeroPages(first: 0, count: 500)
        let replaced = try Self.inspect(Array(bytes[..<offsets[1]]) + foreign + Array(bytes[offsets[2]...]))
        #expect(replaced.summary.firstProblem?.kind == .damaged)
        #expect(replaced.summary.firstProblem?.offset == UInt64(offsets[1]))
        #expect(replaced.summary.hasEnd)
    }

    @Test func refusesWhatIsNoStreamAndWhatIsNewer() throws {
        let http = try Self.inspect(Array("GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: somebody\r\n\r\n".utf8))
        #expect(http.header == nil)
        #expect(http.summary.stopped?.contains("not a migratectl stream") == true)
        var forge = StreamForge()
        forge.version = 2
        let newer = try Self.inspect(forge.header)
        #expect(newer.summary.stopped?.contains("version 2") == true)
        #expect(newer.summary.stopped?.contains("1 to 1") == true)
        forge = StreamForge()
        forge.features = 4
        #expect(try Self.inspect(forge.header).summary.firstProblem?.kind == .unknown)
    }

    @Test func seesContentsThatMakeNoSense() throws {
        func first(_ make: (inout StreamForge) -> [UInt8]) throws -> StreamProblem? {
            var forge = StreamForge()
            let start = forge.header + forge.configuration()
            return try Self.inspect(start + make(&forge)).summary.firstProblem
        }
        #expect(try first { $0.zeroPages(first: 1020, count: 5) }?.message.contains("outside") == true)
        #expect(try first { $0.zeroPages(region: 3, first: 0, count: 5) }?.kind == .invalid)
        #expect(try first { $0.zeroPages(first: .max, count: 5) }?.kind == .invalid)
        #expect(try first { $0.zeroPages(first: 0, count: 0) }?.kind == .invalid)
        #expect(try first { $0.record(77, [1]) }?.kind == .unknown)
        // An optional record of a later program is no problem; the missing END is.
        #expect(try first { $0.record(77, [1], flags: 1) }?.kind == .truncated)
        #expect(try first { $0.end(pages: 3) }?.kind == .mismatch)
        #expect(try first { $0.end(pages: 0) + [0] }?.message.contains("follow the END") == true)
        #expect(try first { $0.epoch(1, pages: 4, zeroPages: 0) }?.kind == .mismatch)
        #expect(try first { $0.record(5, [1, 2, 3]) }?.kind == .invalid)
        #expect(try first { $0.state("\u{1B}[31m", []) }?.kind == .truncated)
    }

    @Test func keepsControlCharactersFromTheTerminal() throws {
        var forge = StreamForge()
        let bytes = forge.header + forge.state("\u{1B}[31mred\u{9B}", []) + forge.end(pages: 0)
        let result = try Self.inspect(bytes)
        #expect(result.records[0].fields[0].value == "?[31mred?")
        #expect(!result.records[0].description.unicodeScalars.contains { $0.value < 0x20 })
    }
}
