/// Streams made by hand from the tables of docs/stream-format.md, right or wrong. Shares no code with the writer under
/// test, so that a common mistake cannot hide; only the hash function is the same.

import CPageKernels
import Migrate
import Synchronization

/// Little-endian fields, one behind the other.
struct Bytes {
    var all: [UInt8] = []

    func u8(_ value: UInt8) -> Bytes { Bytes(all: all + [value]) }
    func u16(_ value: Int) -> Bytes { append(UInt64(value), 2) }
    func u32(_ value: Int) -> Bytes { append(UInt64(value), 4) }
    func u64(_ value: UInt64) -> Bytes { append(value, 8) }
    func raw(_ bytes: [UInt8]) -> Bytes { Bytes(all: all + bytes) }
    func string(_ text: String) -> Bytes { u16(text.utf8.count).raw(Array(text.utf8)) }
    func lengthPrefixed(_ bytes: [UInt8]) -> Bytes { u32(bytes.count).raw(bytes) }

    private func append(_ value: UInt64, _ count: Int) -> Bytes {
        Bytes(all: all + (0..<count).map { UInt8(truncatingIfNeeded: value >> UInt64(8 * $0)) })
    }
}

/// Makes the bytes of one stream.
struct StreamForge {
    var version = 1
    var headerLength = 48
    var features: UInt64 = 0
    var identifier: [UInt8]
    private(set) var sequence: UInt64 = 0

    init(identifier: UInt8 = 1) { self.identifier = (0..<16).map { identifier &+ $0 } }

    static let magic: [UInt8] = [0x89, 0x4D, 0x49, 0x47, 0x52, 0x0D, 0x0A, 0x1A]

    var header: [UInt8] {
        let start = Bytes().raw(Self.magic).u16(version).u16(headerLength).u32(0).u64(features).raw(identifier)
        return start.u64(Self.hash(start.all)).all
    }

    /// A record with the next sequence number, or another one.
    mutating func record(
        _ type: Int, _ payload: [UInt8], flags: Int = 0, length: Int? = nil, sequence other: UInt64? = nil,
        contents: [UInt8] = []
    ) -> [UInt8] {
        let covered = Bytes().u16(type).u16(flags).u32(length ?? payload.count + contents.count)
            .u64(other ?? sequence).raw(payload)
        if other == nil { sequence += 1 }
        let seed = identifier.prefix(8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        return Bytes().u64(Self.hash(covered.all, seed: seed)).all + covered.all + contents
    }

    static func hash(_ bytes: [UInt8], seed: UInt64 = 0) -> UInt64 {
        bytes.withUnsafeBytes { buffer in
            var nothing: UInt8 = 0
            guard let base = buffer.baseAddress else { return mk_hash(&nothing, 0, seed) }
            return mk_hash(base, buffer.count, seed)
        }
    }

    // MARK: - Records

    mutating func configuration(
        name: String = "forged", regions: [(UInt64, UInt64)] = [(0, 4 << 20)], vcpus: Int = 1, pageSize: Int = 4096
    ) -> [UInt8] {
        var payload = Bytes().string(name).raw(Array(repeating: 9, count: 16)).u32(pageSize).u32(vcpus)
            .u32(regions.count)
        for (address, length) in regions { payload = payload.u64(address).u64(length) }
        return record(1, payload.lengthPrefixed([1, 2, 3]).u32(1).string("serial.0").u32(1).all)
    }

    mutating func zeroPages(region: Int = 0, first: UInt64, count: Int, reserved: UInt8 = 0) -> [UInt8] {
        record(2, Bytes().u16(region).u8(1).u8(reserved).u32(count).u64(first).all)
    }

    /// Raw pages, each filled with one byte, unless `contents` says otherwise.
    mutating func rawPages(region: Int = 0, first: UInt64, fill: [UInt8]) -> [UInt8] {
        rawPages(region: region, first: first, contents: fill.map { Array(repeating: $0, count: 4096) })
    }

    mutating func rawPages(region: Int = 0, first: UInt64, contents: [[UInt8]]) -> [UInt8] {
        var head = Bytes().u16(region).u8(2).u8(0).u32(contents.count).u64(first)
        for page in contents { head = head.u64(Self.hash(page)) }
        return record(2, head.all, contents: contents.flatMap { $0 })
    }

    mutating func state(_ name: String, version: Int = 1, _ contents: [UInt8]) -> [UInt8] {
        record(3, Bytes().string(name).u32(version).lengthPrefixed(contents).all)
    }

    mutating func digest(_ digest: UInt64, pages: UInt64, epoch: UInt64 = 0) -> [UInt8] {
        record(4, Bytes().u64(digest).u64(pages).u64(epoch).all)
    }

    mutating func end(records: UInt64? = nil, pages: UInt64) -> [UInt8] {
        record(5, Bytes().u64(records ?? sequence).u64(pages).all)
    }

    mutating func hello(session: [UInt8], lanes: Int = 1, program: String = "forge") -> [UInt8] {
        record(16, Bytes().raw(session).u16(lanes).u16(0).string(program).all)
    }

    mutating func welcome(session: [UInt8], secret: [UInt8], lanes: Int = 1) -> [UInt8] {
        record(17, Bytes().raw(session).raw(secret).u16(lanes).u16(0).string("forge").all)
    }

    mutating func refusal(code: Int, reason: String) -> [UInt8] {
        record(18, Bytes().u16(code).u16(0).lengthPrefixed(Array(reason.utf8)).all)
    }

    mutating func lane(session: [UInt8], number: Int, secret: [UInt8]) -> [UInt8] {
        record(19, Bytes().raw(session).u16(number).u16(0).raw(secret).all)
    }

    mutating func laneReady(_ number: Int) -> [UInt8] { record(20, Bytes().u16(number).all) }

    mutating func epoch(_ epoch: UInt64, pages: UInt64, zeroPages: UInt64) -> [UInt8] {
        record(21, Bytes().u64(epoch).u64(pages).u64(zeroPages).all)
    }

    mutating func epochSeen(_ epoch: UInt64, pages: UInt64, zeroPages: UInt64) -> [UInt8] {
        record(22, Bytes().u64(epoch).u64(pages).u64(zeroPages).all)
    }

    mutating func handover(_ message: HandOverMessage) -> [UInt8] { record(23, message.encoded) }

    mutating func rejoin(session: [UInt8]) -> [UInt8] { record(26, session) }
}

extension SessionIdentifier {
    /// As it stands in records.
    var bytes: [UInt8] { Bytes().u64(low).u64(high).all }
}

/// Bytes in memory as a source; hands out at most `portion` at a time.
final class ArraySource: ByteSource {
    private var rest: ArraySlice<UInt8>
    private let portion: Int

    init(_ bytes: [UInt8], portion: Int = .max) {
        rest = bytes[...]
        self.portion = portion
    }

    func read(into first: UnsafeMutableRawBufferPointer, then second: UnsafeMutableRawBufferPointer) throws -> Int {
        var done = 0
        for target in [first, second] {
            let part = rest.prefix(min(target.count, portion - done))
            guard !part.isEmpty else { continue }
            target.copyBytes(from: part)
            rest = rest.dropFirst(part.count)
            done += part.count
        }
        return done
    }
}
