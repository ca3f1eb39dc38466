/// The destination's side of the urgent lane: asks for pages without allocating anything.

import Glibc
import Synchronization
import Units

/// Writes to the urgent lane. One thread at a time.
@safe
final class PageRequestLink: @unchecked Sendable {
    let connection: Connection
    private var framer: RecordFramer
    private let record: UnsafeMutableRawPointer

    private static let length = StreamFormat.recordHeaderLength + PageRequest.payloadLength

    /// Opens the stream back to the source.
    init(_ connection: Connection, opening records: [Record]) throws {
        let header = StreamHeader()
        var framer = RecordFramer(header)
        var bytes = header.bytes
        for record in records { bytes += framer.frame(record) }
        try connection.write(bytes)
        self.connection = connection
        self.framer = framer
        unsafe record = UnsafeMutableRawPointer.allocate(byteCount: Self.length, alignment: 64)
        unsafe record.initializeMemory(as: UInt8.self, repeating: 0, count: Self.length)
    }

    deinit { unsafe record.deallocate() }

    /// Asks for one page.
    func request(region: Int, page: Int) throws {
        unsafe record.storeBytes(of: RecordType.pageRequest.rawValue.littleEndian, toByteOffset: 8, as: UInt16.self)
        unsafe record.storeBytes(of: UInt32(PageRequest.payloadLength).littleEndian, toByteOffset: 12, as: UInt32.self)
        unsafe record.storeBytes(
            of: UInt16(truncatingIfNeeded: region).littleEndian, toByteOffset: 24, as: UInt16.self)
        unsafe record.storeBytes(of: UInt32(1).littleEndian, toByteOffset: 28, as: UInt32.self)
        unsafe record.storeBytes(of: UInt64(page).littleEndian, toByteOffset: 32, as: UInt64.self)
        unsafe framer.seal(record, length: Self.length)
        try unsafe withUnsafeTemporaryAllocation(of: iovec.self, capacity: 1) { vectors in
            unsafe vectors[0] = iovec(iov_base: record, iov_len: Self.length)
            try unsafe connection.write(UnsafeMutableBufferPointer(rebasing: vectors[...]))
        }
    }
}

/// When the pages were asked for that have not come yet, and how long those took that have.
struct FaultTimes: Sendable {
    private var pages: [UInt64] = Array(repeating: 0, count: capacity)
    private var instants: [UInt64] = Array(repeating: 0, count: capacity)
    private(set) var waiting = 0
    private(set) var histogram = LatencyHistogram()

    /// Faults that can be timed at once; each vCPU has one, or 64 where KVM lets it go on meanwhile.
    private static let capacity = 4096

    mutating func begin(_ page: UInt64, at now: UInt64) {
        guard waiting < Self.capacity else { return }
        pages[waiting] = page
        instants[waiting] = now
        waiting += 1
    }

    /// The page is there; `counts` is false for one that nobody had to wait for after all.
    mutating func end(_ page: UInt64, at now: UInt64, counts: Bool = true) {
        for index in 0..<waiting where pages[index] == page {
            if counts { histogram.record(nanoseconds: now > instants[index] ? now - instants[index] : 0) }
            waiting -= 1
            pages[index] = pages[waiting]
            instants[index] = instants[waiting]
            return
        }
    }

    mutating func forgetWaiting() { waiting = 0 }
}
