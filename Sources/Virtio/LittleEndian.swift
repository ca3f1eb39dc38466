/// Numbers in the byte order of virtio structures.

extension [UInt8] {
    /// The number at `offset`; bytes that are not there count as 0.
    func littleEndian16(at offset: Int) -> UInt16 { UInt16(truncatingIfNeeded: number(at: offset, byteCount: 2)) }
    func littleEndian32(at offset: Int) -> UInt32 { UInt32(truncatingIfNeeded: number(at: offset, byteCount: 4)) }
    func littleEndian64(at offset: Int) -> UInt64 { number(at: offset, byteCount: 8) }

    private func number(at offset: Int, byteCount: Int) -> UInt64 {
        var value: UInt64 = 0
        for index in 0..<byteCount where offset >= 0 && offset < count - index {
            value |= UInt64(self[offset + index]) << UInt64(8 * index)
        }
        return value
    }

    /// Puts a number over the bytes at `offset`, as far as they are there.
    mutating func setLittleEndian(_ value: some FixedWidthInteger & UnsignedInteger, at offset: Int) {
        for index in 0..<value.bitWidth / 8 where offset >= 0 && offset < count - index {
            self[offset + index] = UInt8(truncatingIfNeeded: value >> (8 * index))
        }
    }
}

/// A device's configuration space, being filled in.
struct ConfigurationSpace {
    private(set) var bytes: [UInt8]

    init(byteCount: Int) { bytes = [UInt8](repeating: 0, count: byteCount) }

    mutating func set(_ value: some FixedWidthInteger & UnsignedInteger, at offset: Int) {
        bytes.setLittleEndian(value, at: offset)
    }
}
