/// A request as the driver queued it: buffers that the device reads, then buffers that it writes.

/// One buffer of guest memory, checked to be RAM.
@safe
public struct GuestSegment: Sendable {
    public let address: UInt64
    public let count: Int
    /// The host's mapping of it. Whoever writes through it marks the bytes written.
    @unsafe public nonisolated(unsafe) let base: UnsafeMutableRawPointer

    /// What remains when `skipped` bytes in front and all behind `limit` bytes are left out.
    func part(from skipped: Int, limit: Int) -> GuestSegment {
        let skipped = min(max(skipped, 0), count)
        return unsafe GuestSegment(
            address: address &+ UInt64(skipped), count: min(count - skipped, max(limit, 0)), base: base + skipped)
    }
}

/// A chain of descriptors, copied out of guest memory: what the driver changes afterwards has no effect.
public struct DescriptorChain: Sendable {
    /// Names the chain in the used ring.
    public let head: UInt16
    /// Buffers that the device reads.
    public let readable: [GuestSegment]
    /// Buffers that the device writes.
    public let writable: [GuestSegment]
    public let readableByteCount: Int
    public let writableByteCount: Int
    private let memory: any GuestMemoryAccess

    init(head: UInt16, segments: [GuestSegment], readableCount: Int, memory: any GuestMemoryAccess) {
        self.head = head
        readable = Array(segments[..<readableCount])
        writable = Array(segments[readableCount...])
        // At most 32768 segments of less than 4 GiB each: no overflow.
        readableByteCount = readable.reduce(0) { $0 + $1.count }
        writableByteCount = writable.reduce(0) { $0 + $1.count }
        self.memory = memory
    }

    /// A copy of the readable bytes from `offset` on; fewer where there are fewer.
    public func read(from offset: Int = 0, count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        for part in Self.slice(readable, from: offset, count: count) {
            unsafe bytes.append(contentsOf: UnsafeRawBufferPointer(start: part.base, count: part.count))
        }
        return bytes
    }

    /// Copies into the writable bytes from `offset` on, as far as there is room; returns how many bytes were written.
    @discardableResult
    public func write(_ bytes: [UInt8], at offset: Int = 0) throws(VirtioFault) -> Int {
        var done = 0
        for part in Self.slice(writable, from: offset, count: bytes.count) {
            let error = unsafe bytes.withUnsafeBytes { raw -> GuestMemoryError? in
                let piece = unsafe UnsafeRawBufferPointer(rebasing: raw[done..<done + part.count])
                do throws(GuestMemoryError) {
                    try unsafe memory.copy(piece, to: part.address)
                    return nil
                } catch {
                    return error
                }
            }
            if let error { throw VirtioFault("cannot answer", error) }
            done += part.count
        }
        return done
    }

    /// The writable buffers from `offset` on, `count` bytes of them at most.
    public func writableSlice(from offset: Int, count: Int) -> [GuestSegment] {
        Self.slice(writable, from: offset, count: count)
    }

    /// The readable buffers from `offset` on, `count` bytes of them at most.
    public func readableSlice(from offset: Int, count: Int) -> [GuestSegment] {
        Self.slice(readable, from: offset, count: count)
    }

    private static func slice(_ segments: [GuestSegment], from offset: Int, count: Int) -> [GuestSegment] {
        var (skip, left) = (max(offset, 0), max(count, 0))
        var result: [GuestSegment] = []
        for segment in segments where left > 0 {
            guard skip < segment.count else {
                skip -= segment.count
                continue
            }
            let part = segment.part(from: skip, limit: left)
            skip = 0
            left -= part.count
            if part.count > 0 { result.append(part) }
        }
        return result
    }
}
