/// Finding the damaged byte of a record or a page whose checksum is wrong.
///
/// A checksum only says that something is wrong. But storage, memory and links mostly spoil a single bit or byte, and
/// that can be found: put every other value in every place and look for the one with which the checksum is right. By
/// chance that happens once in 2^64 tries, so a find is as good as knowledge.

import Units

/// Bytes of a record that the checksum covers, as its header tells it.
struct RecordShape: Equatable {
    /// Bytes from the record's start to the end of what the checksum covers.
    var covered: Int
    /// Bytes of the whole record.
    var total: Int
    /// Raw pages behind the covered bytes.
    var rawPages = 0

    static let headerLength = StreamFormat.recordHeaderLength
    /// Bytes that decide about the shape.
    static let decisive = headerLength + StreamFormat.pagesHeadLength

    /// Nil for a header that no record can have. `head` has the header, and for PAGES the payload's 16 first bytes.
    init?(_ head: [UInt8]) {
        let fields = RecordFields(head)
        guard fields.length <= StreamFormat.payloadLimit(of: fields.type) else { return nil }
        covered = Self.headerLength + fields.length
        total = covered
        guard fields.type == RecordType.pages.rawValue else { return }
        guard fields.length >= StreamFormat.pagesHeadLength, head.count >= Self.decisive else { return nil }
        guard head[Self.headerLength + 2] == PageEncoding.raw.rawValue else { return }
        let count = Int(RecordFields.integer(head, at: Self.headerLength + 4, bytes: 4))
        guard 1...StreamFormat.rawPagesPerRecord ~= count,
            fields.length == StreamFormat.pagesHeadLength + count * (8 + pageByteCount)
        else { return nil }
        covered = Self.decisive + count * 8
        rawPages = count
    }
}

/// A record's header, taken as it stands.
struct RecordFields: Equatable {
    var checksum: UInt64
    var type: UInt16
    var flags: UInt16
    var length: Int
    var sequence: UInt64

    /// `bytes` begins with a header.
    init(_ bytes: [UInt8]) {
        checksum = Self.integer(bytes, at: 0, bytes: 8)
        type = UInt16(Self.integer(bytes, at: 8, bytes: 2))
        flags = UInt16(Self.integer(bytes, at: 10, bytes: 2))
        length = Int(Self.integer(bytes, at: 12, bytes: 4))
        sequence = Self.integer(bytes, at: 16, bytes: 8)
    }

    static func integer(_ bytes: [UInt8], at offset: Int, bytes count: Int) -> UInt64 {
        (0..<count).reduce(0) { $0 | UInt64(bytes[offset + $1]) << UInt64(8 * $1) }
    }

    /// The part of a header that holds byte `index`.
    static func name(ofByte index: Int) -> String {
        switch index {
        case 0..<8: "the checksum"
        case 8..<10: "the type"
        case 10..<12: "the flags"
        case 12..<16: "the length"
        case 16..<24: "the sequence number"
        default: "the payload"
        }
    }
}

/// A byte that was found to be wrong, and what it was.
struct DamagedByte: Equatable {
    var index: Int
    var original: UInt8
}

enum DamageHunt {
    /// Longest piece that is searched: the work grows with its square.
    static let limit = 16 << 10
    /// Up to this length every value of every byte is tried, beyond it every single bit.
    private static let thoroughLimit = 512

    /// The byte that two checksums differ in, if it is only one.
    static func differingByte(_ a: UInt64, _ b: UInt64) -> DamagedByte? {
        let difference = a ^ b
        let byte = difference.trailingZeroBitCount / 8
        guard difference != 0, difference >> UInt64(8 * byte) <= 0xFF else { return nil }
        return DamagedByte(index: byte, original: UInt8(truncatingIfNeeded: b >> UInt64(8 * byte)))
    }

    /// The byte of `range` that must change for the range's hash to be `expected`.
    static func find(in bytes: [UInt8], range: Range<Int>, expected: UInt64, seed: UInt64) -> DamagedByte? {
        guard range.count <= limit else { return nil }
        let masks: [UInt8] = range.count <= thoroughLimit ? Array(1...255) : (0..<8).map { 1 << $0 }
        var bytes = bytes
        return unsafe bytes.withUnsafeMutableBytes { memory in
            let part = unsafe UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(memory)[range])
            for index in range {
                let now = unsafe memory[index]
                for mask in masks {
                    unsafe memory[index] = now ^ mask
                    if unsafe hashBytes(part, seed: seed) == expected {
                        return DamagedByte(index: index, original: now ^ mask)
                    }
                }
                unsafe memory[index] = now
            }
            return nil
        }
    }
}
