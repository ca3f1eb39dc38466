/// Golden files: streams as a program of their version wrote them. A change of the format cannot go unnoticed.

import Glibc
import Migrate
import Synchronization
import Testing
import Units

@Suite struct GoldenTests {
    /// Both directions of all connections of one migration with two lanes.
    private static let names = [
        "control-to-destination", "control-to-source", "lane-0-to-destination", "lane-0-to-source",
        "lane-1-to-destination", "lane-1-to-source",
    ]

    private static var directory: String {
        let file = #filePath.split(separator: "/", omittingEmptySubsequences: false)
        return file.dropLast(2).joined(separator: "/") + "/Golden/version-1"
    }

    private static let configuration = MachineConfiguration(
        name: "golden", identifier: (0..<16).map { UInt8($0) },
        memory: [
            .init(guestAddress: GuestAddress(0), byteCount: 600 * 4096),
            .init(guestAddress: GuestAddress(1 << 32), byteCount: 16 * 4096),
        ], vcpuCount: 2, cpuPolicy: [1, 2, 3, 4, 5], devices: [.init(name: "serial.0", version: 1)])

    /// Pages with contents, by region. Page 1 of region 0 is what the model writes in its pause.
    private static let filled: [[Int]] = [[2, 3, 100, 511, 512], [0, 15]]

    private static func byte(region: Int, page: Int, offset: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: region &* 31 &+ page &* 7 &+ offset / 64 + 1)
    }

    private static func contents(region: Int, page: Int) -> [UInt8] {
        (0..<pageByteCount).map { byte(region: region, page: page, offset: $0) }
    }

    private static func read(_ path: String) throws -> [UInt8] {
        let source = try FileSource(path: path)
        var all: [UInt8] = []
        var part = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = try part.withUnsafeMutableBytes {
                try source.read(into: $0, then: UnsafeMutableRawBufferPointer(start: nil, count: 0))
            }
            if count == 0 { return all }
            all += part.prefix(count)
        }
    }

    /// What a file says, as people see it.
    private static func explain(_ bytes: [UInt8]) throws -> (text: String, summary: InspectionSummary) {
        var inspector = StreamInspector(ArraySource(bytes))
        var lines: [String] = []
        if let header = try inspector.readHeader() { lines.append(header.description) }
        while let record = try inspector.next() { lines.append(record.details) }
        return (lines.joined(separator: "\n") + "\n", inspector.summary)
    }

    @Test(arguments: names)
    func aFileOfVersion1SaysWhatItSaid(_ name: String) throws {
        let bytes = try Self.read("\(Self.directory)/\(name).stream")
        let (text, summary) = try Self.explain(bytes)
        let expected = String(decoding: try Self.read("\(Self.directory)/\(name).txt"), as: UTF8.self)
        #expect(text == expected)
        if name.hasSuffix("to-destination") {
            #expect(summary.isIntact, "\(summary)")
        } else {
            // A destination does not say END.
            #expect(summary.problems == 1 && summary.firstProblem?.kind == .truncated, "\(summary)")
        }
    }

    /// Each record is made once more, by the tables of the format's document: the same bytes come out.
    @Test(arguments: names)
    func aFileOfVersion1IsWhatTheDocumentSays(_ name: String) throws {
        let bytes = try Self.read("\(Self.directory)/\(name).stream")
        var splitter = RecordSplitter()
        let pieces = splitter.feed(bytes)
        #expect(pieces.reduce(0) { $0 + $1.count } == bytes.count)
        var forge = StreamForge()
        forge.identifier = Array(bytes[24..<40])
        #expect(pieces.first == forge.header)
        for piece in pieces.dropFirst() {
            guard piece.recordType == 2 else {
                let type = try #require(RecordType(rawValue: UInt16(piece.recordType)))
                let record = try Record(type: type, payload: Array(piece[24...]), offset: 0)
                #expect(forge.record(piece.recordType, record.payload, flags: piece.number(at: 10, bytes: 2)) == piece)
                continue
            }
            let (region, count) = (piece.number(at: 24, bytes: 2), piece.number(at: 28, bytes: 4))
            let first = piece.number(at: 32, bytes: 8)
            if piece[26] == 1 {
                #expect(forge.zeroPages(region: region, first: UInt64(first), count: count) == piece)
            } else {
                let pages = (0..<count).map { Array(piece[(40 + count * 8 + $0 * 4096)...].prefix(4096)) }
                #expect(forge.rawPages(region: region, first: UInt64(first), contents: pages) == piece)
                for (i, page) in pages.enumerated() where Self.filled[region].contains(first + i) {
                    #expect(page == Self.contents(region: region, page: first + i), "page \(first + i)")
                }
            }
        }
    }

    /// Makes the files of this version: `MIGRATECTL_RECORD_GOLDEN=1 swift test --filter GoldenTests`, once.
    @Test(.enabled(if: getenv("MIGRATECTL_RECORD_GOLDEN") != nil, "golden files are recorded once a version"))
    func record() async throws {
        try await hostile {
            let source = ModelMachine(configuration: Self.configuration)
            for (region, pages) in Self.filled.enumerated() {
                for page in pages {
                    source.memory[region].base.advanced(by: page * pageByteCount).copyMemory(
                        from: Self.contents(region: region, page: page), byteCount: pageByteCount)
                }
            }
            _ = try source.resume()
            let flows = Mutex<[Flow: [UInt8]]>([:])
            let ending = try Hostile.move(lanes: 2, machine: source) { flow in
                RecordMangler { _, _, piece in
                    flows.withLock { $0[flow, default: []] += piece }
                    return .pass(piece)
                }
            }
            check(ending.report.outcome == .completed)
            mkdir(Self.directory, 0o755)
            for (index, name) in Self.names.enumerated() {
                let flow = Flow(connection: index / 2, direction: index % 2 == 0 ? .toDestination : .toSource)
                let bytes = flows.withLock { $0[flow] ?? [] }
                try Self.write(bytes, "\(Self.directory)/\(name).stream")
                try Self.write(Array(try Self.explain(bytes).text.utf8), "\(Self.directory)/\(name).txt")
            }
        }
    }

    private static func write(_ bytes: [UInt8], _ path: String) throws {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL, 0o644)
        let written = Glibc.write(descriptor, bytes, bytes.count)
        close(descriptor)
        guard written == bytes.count else { throw TransportError(.failed, "cannot write \(path)") }
    }
}
