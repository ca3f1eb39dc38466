/// Writes PAGES records: each page is copied and hashed in one pass into a small buffer, and what was hashed leaves.

import CPageKernels
import Glibc
import Units

/// What went out.
package struct PageCounts: Equatable, Sendable {
    /// Pages sent, zero pages included.
    package var pages: UInt64 = 0
    package var zeroPages: UInt64 = 0
    /// Bytes on the wire, heads included.
    package var bytes: UInt64 = 0
}

/// The page-carrying direction of a lane. For one thread at a time.
@safe
package struct PageWriter: ~Copyable {
    private let connection: Connection
    private var framer: RecordFramer
    private let recorder: StreamRecorder?
    package private(set) var counts = PageCounts()

    /// Contents of the raw pages gathered. Small enough for L2 with what the kernel touches besides.
    private let contents: UnsafeMutableRawPointer
    private var contentPages = 0
    /// Heads of the records gathered.
    private let heads: UnsafeMutableRawPointer
    private var headBytes = 0
    private var zeroRuns = 0
    /// What one write sends: head, contents, head, contents...
    private let vectors: UnsafeMutablePointer<iovec>
    private var vectorCount = 0

    /// The raw run being gathered, whose head is not written yet.
    private var runRegion = 0
    private var runStart = 0
    private var runCount = 0
    private let runHashes: UnsafeMutablePointer<UInt64>

    private static let contentPagesLimit = 64
    private static let headLength = StreamFormat.recordHeaderLength + StreamFormat.pagesHeadLength
    /// Zero runs gathered at most: each needs a head and a vector.
    private static let zeroRunsLimit = 128
    /// Each gathered page can need a raw head of its own.
    private static let headBytesLimit = contentPagesLimit * (headLength + 8) + zeroRunsLimit * headLength
    private static let vectorLimit = 2 * contentPagesLimit + zeroRunsLimit

    /// Opens the stream with its header and a first record.
    package init(_ connection: Connection, greeting: Record, recorder: StreamRecorder?) throws {
        let header = StreamHeader()
        var framer = RecordFramer(header)
        let opening = header.bytes + framer.frame(greeting)
        try connection.write(opening)
        recorder?.append(opening)
        self.connection = connection
        self.framer = framer
        self.recorder = recorder
        unsafe contents = UnsafeMutableRawPointer.allocate(
            byteCount: Self.contentPagesLimit * pageByteCount, alignment: pageByteCount)
        unsafe heads = UnsafeMutableRawPointer.allocate(byteCount: Self.headBytesLimit, alignment: 64)
        unsafe vectors = UnsafeMutablePointer<iovec>.allocate(capacity: Self.vectorLimit)
        unsafe runHashes = UnsafeMutablePointer<UInt64>.allocate(capacity: Self.contentPagesLimit)
    }

    deinit {
        unsafe contents.deallocate()
        unsafe heads.deallocate()
        unsafe vectors.deallocate()
        unsafe runHashes.deallocate()
    }

    /// Sends pages `run` of a region, whose first byte in this process is `base`: copies and hashes each, sends zero
    /// pages as such. Pages may be written meanwhile. Some stay in the buffer until `flush`. Without `hashes` they are not
    /// counted into the digest: another lane has done so.
    package mutating func send(
        _ run: PageRun, region: Int, base: UnsafeMutableRawPointer, hashes: PageHashes?, share: inout DigestShare
    ) throws {
        var zeroStart = run.start.rawValue
        var zeroCount = 0
        for page in run.start.rawValue..<run.end.rawValue {
            // Before the copy: a flush between a page's copy and its account would lose it.
            if zeroRuns == Self.zeroRunsLimit { try flush() }
            var hash: UInt64 = 0
            let slot = unsafe contents + contentPages * pageByteCount
            if unsafe mk_copy_hash_page(slot, base + page * pageByteCount, &hash) {
                if zeroCount == 0 {
                    zeroStart = page
                    closeRun()
                }
                zeroCount += 1
                _ = hashes?.storeZero(region: region, page: page, share: &share)
                continue
            }
            if zeroCount > 0 {
                putZero(PageRun(start: PageIndex(zeroStart), count: zeroCount), region: region)
                zeroCount = 0
            }
            // A record does not cross stripes: they may belong to different lanes.
            if runCount == 0 || runRegion != region || runStart + runCount != page || page % pagesPerStripe == 0 {
                closeRun()
                runRegion = region
                runStart = page
            }
            unsafe runHashes[runCount] = hash
            runCount += 1
            contentPages += 1
            hashes?.store(hash, region: region, page: page, share: &share)
            if contentPages == Self.contentPagesLimit { try flush() }
        }
        if zeroCount > 0 {
            if zeroRuns == Self.zeroRunsLimit { try flush() }
            putZero(PageRun(start: PageIndex(zeroStart), count: zeroCount), region: region)
        }
    }

    /// Sends pages that need not be read: holes.
    package mutating func sendHole(_ run: PageRun, region: Int, hashes: PageHashes, share: inout DigestShare) throws {
        closeRun()
        for page in run.start.rawValue..<run.end.rawValue {
            _ = hashes.storeZero(region: region, page: page, share: &share)
        }
        if zeroRuns == Self.zeroRunsLimit { try flush() }
        putZero(run, region: region)
    }

    /// The head of a zero run; there is room for it.
    private mutating func putZero(_ run: PageRun, region: Int) {
        zeroRuns += 1
        let head = unsafe heads + headBytes
        unsafe putHead(head, encoding: .zero, region: region, run: run, length: StreamFormat.pagesHeadLength)
        unsafe framer.seal(head, length: Self.headLength)
        unsafe addVector(head, Self.headLength)
        headBytes += Self.headLength
        counts.pages += UInt64(run.count)
        counts.zeroPages += UInt64(run.count)
    }

    /// Ends the raw run being gathered: its head goes before its contents.
    private mutating func closeRun() {
        guard runCount > 0 else { return }
        let head = unsafe heads + headBytes
        let run = PageRun(start: PageIndex(runStart), count: runCount)
        unsafe putHead(
            head, encoding: .raw, region: runRegion, run: run,
            length: StreamFormat.pagesHeadLength + runCount * (8 + pageByteCount))
        unsafe (head + Self.headLength).copyMemory(from: runHashes, byteCount: runCount * 8)
        let length = Self.headLength + runCount * 8
        unsafe framer.seal(head, length: length)
        unsafe addVector(head, length)
        unsafe addVector(contents + (contentPages - runCount) * pageByteCount, runCount * pageByteCount)
        // Heads stay aligned, since hashes are 8 bytes each.
        headBytes += length
        counts.pages += UInt64(runCount)
        runCount = 0
    }

    private func putHead(
        _ head: UnsafeMutableRawPointer, encoding: PageEncoding, region: Int, run: PageRun, length: Int
    ) {
        unsafe head.storeBytes(of: RecordType.pages.rawValue.littleEndian, toByteOffset: 8, as: UInt16.self)
        unsafe head.storeBytes(of: 0, toByteOffset: 10, as: UInt16.self)
        unsafe head.storeBytes(of: UInt32(length).littleEndian, toByteOffset: 12, as: UInt32.self)
        unsafe head.storeBytes(of: UInt16(region).littleEndian, toByteOffset: 24, as: UInt16.self)
        unsafe head.storeBytes(of: encoding.rawValue, toByteOffset: 26, as: UInt8.self)
        unsafe head.storeBytes(of: 0, toByteOffset: 27, as: UInt8.self)
        unsafe head.storeBytes(of: UInt32(run.count).littleEndian, toByteOffset: 28, as: UInt32.self)
        unsafe head.storeBytes(of: UInt64(run.start.rawValue).littleEndian, toByteOffset: 32, as: UInt64.self)
    }

    private mutating func addVector(_ base: UnsafeMutableRawPointer, _ length: Int) {
        unsafe vectors[vectorCount] = iovec(iov_base: base, iov_len: length)
        vectorCount += 1
        counts.bytes += UInt64(length)
    }

    /// Sends what was gathered.
    package mutating func flush() throws {
        closeRun()
        guard vectorCount > 0 else { return }
        let batch = unsafe UnsafeMutableBufferPointer(start: vectors, count: vectorCount)
        if let recorder {
            for i in 0..<batch.count {
                unsafe recorder.append(UnsafeRawBufferPointer(start: batch[i].iov_base, count: batch[i].iov_len))
            }
        }
        vectorCount = 0
        headBytes = 0
        zeroRuns = 0
        contentPages = 0
        try unsafe connection.write(batch)
    }

    /// Sends what was gathered, then a small record.
    package mutating func send(_ record: Record) throws {
        try flush()
        let bytes = framer.frame(record)
        counts.bytes += UInt64(bytes.count)
        try connection.write(bytes)
        recorder?.append(bytes)
    }

    /// Records sent so far.
    var recordCount: UInt64 { framer.sequence }
}
