/// The part of a stream that an inspector looks at: it may look ahead before it decides what it sees.

/// A window over a byte source. Grows only by bytes that came, whatever a length field promises.
struct InspectorWindow {
    private let source: any ByteSource
    private var buffer: [UInt8]
    private var start = 0
    private var end = 0
    /// Offset in the stream of the window's first byte.
    private(set) var offset: UInt64 = 0

    private static let step = 64 << 10

    init(_ source: any ByteSource) {
        self.source = source
        buffer = Array(repeating: 0, count: Self.step)
    }

    /// Bytes in the window.
    var count: Int { end - start }

    /// Where the bytes in the window end in the stream.
    var endOffset: UInt64 { offset + UInt64(count) }

    /// Gets at least `wanted` bytes into the window; false if the input ends before.
    mutating func fill(_ wanted: Int) throws -> Bool {
        while count < wanted {
            if end == buffer.count {
                if start > 0 {
                    buffer.removeFirst(start)
                    end -= start
                    start = 0
                }
                buffer.append(contentsOf: repeatElement(0, count: Self.step))
            }
            let from = end
            let read = try unsafe buffer.withUnsafeMutableBytes { bytes in
                let none = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
                let space = unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[from...])
                return try unsafe source.read(into: space, then: none)
            }
            guard read > 0 else { return false }
            end += read
        }
        return true
    }

    /// The first `length` bytes, which are in the window.
    func bytes(_ length: Int) -> [UInt8] { Array(buffer[start..<start + length]) }

    /// XXH3-64 of bytes in the window, without copying them.
    func hash(_ range: Range<Int>, seed: UInt64) -> UInt64 {
        let from = start
        return unsafe buffer.withUnsafeBytes { bytes in
            let part = unsafe UnsafeRawBufferPointer(rebasing: bytes[from + range.lowerBound..<from + range.upperBound])
            return unsafe hashBytes(part, seed: seed)
        }
    }

    /// Drops bytes, in the window or not yet.
    /// - Returns: false if the input ends before.
    mutating func skip(_ length: Int) throws -> Bool {
        var rest = length
        while rest > 0 {
            guard try fill(1) else { return false }
            let part = min(rest, count)
            start += part
            offset += UInt64(part)
            rest -= part
            if start == end {
                start = 0
                end = 0
            }
        }
        return true
    }
}
