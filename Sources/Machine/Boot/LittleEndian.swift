/// Numbers in the byte order of x86, for structures that guests read.

extension [UInt8] {
    /// Appends a number, its least significant byte first.
    mutating func append<Number: FixedWidthInteger & UnsignedInteger>(_ value: Number) {
        for shift in stride(from: 0, to: Number.bitWidth, by: 8) {
            append(UInt8(truncatingIfNeeded: value >> Number(shift)))
        }
    }

    /// Puts a number at a place that exists.
    mutating func put<Number: FixedWidthInteger & UnsignedInteger>(_ value: Number, at offset: Int) {
        for index in 0..<Number.bitWidth / 8 {
            self[offset + index] = UInt8(truncatingIfNeeded: value >> Number(index * 8))
        }
    }

    /// The number at a place, nil where the bytes end before it does.
    func number<Number: FixedWidthInteger & UnsignedInteger>(_ offset: Int, _: Number.Type) -> Number? {
        let size = Number.bitWidth / 8
        guard offset >= 0, offset <= count - size else { return nil }
        var value: Number = 0
        for index in 0..<size { value |= Number(self[offset + index]) << Number(index * 8) }
        return value
    }
}
