/// Reads a stream record by record, checking each before anybody sees it. Page contents go straight to where they
/// belong; they are checked there by their hashes.

import CPageKernels
import Units

/// The part of a PAGES record before the page contents.
package struct PageHead: Equatable {
    package var region: Int
    package var encoding: PageEncoding
    package var run: PageRun
}

/// What the reader found next.
package enum IncomingRecord {
    case record(Record)
    /// Followed, if raw, by contents that `readPages` must take before the next record.
    case pages(PageHead)
}

/// One direction of a connection, or a file. For one thread at a time.
@safe
package struct RecordReader: ~Copyable {
    private let source: any ByteSource
    private let buffer: UnsafeMutableRawBufferPointer
    private var start = 0
    private var end = 0
    /// Stream offset of `buffer[start]`.
    private(set) var offset: UInt64 = 0
    private var seed: UInt64 = 0
    private(set) var nextSequence: UInt64 = 0
    /// Stream offset of the record that was read last, its header included.
    private(set) var recordOffset: UInt64 = 0
    /// Payload bytes of the record that was read last, page contents included.
    private(set) var recordLength = 0
    /// Hashes of the raw pages that follow; `StreamFormat.rawPagesPerRecord` of them fit.
    private let hashes: UnsafeMutableBufferPointer<UInt64>
    private var pendingPages = 0

    /// Room for many small records.
    private static let capacity = 64 << 10
    /// Bytes read ahead behind a long run of raw pages: the next record's head, if it has raw pages again, and little
    /// else, since page contents that land in the buffer must be copied once more.
    private static let longReadAhead =
        StreamFormat.recordHeaderLength + StreamFormat.pagesHeadLength + 8 * 64
    /// Behind a run of so few pages more such follow, as a busy guest's last rounds have them: a call for each would
    /// cost more than copying their contents once more.
    private static let shortRun = 4

    package init(_ source: any ByteSource) {
        self.source = source
        unsafe buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: Self.capacity, alignment: 64)
        unsafe hashes = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: StreamFormat.rawPagesPerRecord)
    }

    deinit {
        unsafe buffer.deallocate()
        unsafe hashes.deallocate()
    }

    /// Reads the stream's header; the first call.
    package mutating func readStreamHeader() throws -> StreamHeader {
        guard try fill(atLeast: StreamFormat.streamHeaderLength) else {
            throw truncated(start == end ? "before its header" : "within its header")
        }
        let header = try StreamHeader(parsing: unsafe Array(buffer[start..<start + StreamFormat.streamHeaderLength]))
        consume(StreamFormat.streamHeaderLength)
        seed = header.seed
        return header
    }

    /// Reads the next record; nil where the input ends between two records.
    package mutating func next() throws -> IncomingRecord? {
        precondition(pendingPages == 0, "the contents of the last PAGES record were not read")
        while true {
            guard try fill(atLeast: StreamFormat.recordHeaderLength) else {
                guard start == end else { throw truncated("within a record's header") }
                return nil
            }
            let header = peekHeader()
            recordOffset = offset
            recordLength = header.length
            let limit = StreamFormat.payloadLimit(of: header.type)
            guard header.length <= limit else {
                throw StreamError(
                    .tooLarge, "a record of type \(header.type) claims \(header.length) bytes, more than \(limit)",
                    at: offset + 12)
            }
            if header.type == RecordType.pages.rawValue {
                return .pages(try readPageHead(header))
            }
            let payload = try readPayload(header)
            guard let type = RecordType(rawValue: header.type) else {
                if header.flags & RecordHeader.optionalFlag != 0 { continue }
                throw StreamError(
                    .unknownFeature,
                    "a record of type \(header.type), which this program does not know and may not skip",
                    at: recordOffset + 8)
            }
            return .record(
                try Record(
                    type: type, payload: payload, offset: recordOffset + UInt64(StreamFormat.recordHeaderLength)))
        }
    }

    /// The hashes of the raw pages of the head that was read last.
    package var pageHashes: UnsafeBufferPointer<UInt64> {
        unsafe UnsafeBufferPointer(rebasing: hashes[..<pendingPages])
    }

    /// Reads the page contents behind a raw head into `memory`, which has exactly their size, and checks them.
    /// - Throws: `StreamError` that names the first damaged page's place in the stream.
    package mutating func readPages(into memory: UnsafeMutableRawBufferPointer) throws {
        let count = pendingPages
        precondition(memory.count == count * pageByteCount)
        let contentOffset = offset
        var filled = min(end - start, memory.count)
        unsafe memory.copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer[start..<start + filled]))
        consume(filled)
        while filled < memory.count {
            // The buffer is empty now: what comes behind the pages lands in it with the same call.
            start = 0
            end = 0
            let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: memory[filled...])
            let length = count <= Self.shortRun ? Self.capacity : Self.longReadAhead
            let ahead = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[..<length])
            let read = try unsafe source.read(into: rest, then: ahead)
            guard read > 0 else {
                throw truncated("within the contents of pages")
            }
            let taken = min(read, rest.count)
            filled += taken
            offset += UInt64(taken)
            end = read - taken
        }
        pendingPages = 0
        guard let base = memory.baseAddress, let expected = unsafe hashes.baseAddress else { return }
        let damaged = unsafe mk_check_pages(base, count, expected)
        guard damaged == count else {
            throw StreamError(
                .damaged, "the contents of page \(damaged) of this record do not match their hash",
                at: contentOffset + UInt64(damaged * pageByteCount))
        }
    }

    // MARK: - Parts

    private func peekHeader() -> RecordHeader {
        let base = unsafe UnsafeRawBufferPointer(rebasing: buffer[start..<start + StreamFormat.recordHeaderLength])
        return unsafe RecordHeader(
            checksum: UInt64(littleEndian: base.loadUnaligned(fromByteOffset: 0, as: UInt64.self)),
            type: UInt16(littleEndian: base.loadUnaligned(fromByteOffset: 8, as: UInt16.self)),
            flags: UInt16(littleEndian: base.loadUnaligned(fromByteOffset: 10, as: UInt16.self)),
            length: Int(UInt32(littleEndian: base.loadUnaligned(fromByteOffset: 12, as: UInt32.self))),
            sequence: UInt64(littleEndian: base.loadUnaligned(fromByteOffset: 16, as: UInt64.self)))
    }

    /// Flags and sequence, once the checksum has shown that they are what was written.
    private mutating func accept(_ header: RecordHeader) throws {
        guard header.sequence == nextSequence else {
            throw StreamError(
                .damaged, "record \(nextSequence) was expected and record \(header.sequence) came (lost or repeated)",
                at: recordOffset + 16)
        }
        guard header.flags & ~RecordHeader.optionalFlag == 0 else {
            throw StreamError(
                .unknownFeature, "record flags 0x\(String(header.flags, radix: 16)) are unknown to this program",
                at: recordOffset + 10)
        }
        nextSequence += 1
    }

    private func damaged(_ header: RecordHeader) -> StreamError {
        StreamError(
            .damaged, "the checksum of record \(nextSequence) is wrong (its header or payload is damaged)",
            at: recordOffset)
    }

    private mutating func readPayload(_ header: RecordHeader) throws -> [UInt8] {
        let total = StreamFormat.recordHeaderLength + header.length
        if total <= Self.capacity {
            guard try fill(atLeast: total) else { throw truncated("within a record's payload") }
            let covered = unsafe buffer[start + RecordHeader.coveredOffset..<start + total]
            let sum = unsafe hashBytes(UnsafeRawBufferPointer(rebasing: covered), seed: seed)
            guard sum == header.checksum else { throw damaged(header) }
            let payload = unsafe Array(buffer[start + StreamFormat.recordHeaderLength..<start + total])
            consume(total)
            try accept(header)
            return payload
        }
        // Too long for the buffer: gathered piece by piece, so that memory is spent only on bytes that came.
        var bytes: [UInt8] = []
        while bytes.count < total {
            guard try fill(atLeast: 1) else { throw truncated("within a record's payload") }
            let part = min(end - start, total - bytes.count)
            unsafe bytes.append(contentsOf: buffer[start..<start + part])
            consume(part)
        }
        let sum = unsafe bytes.withUnsafeBytes { bytes in
            unsafe hashBytes(UnsafeRawBufferPointer(rebasing: bytes[RecordHeader.coveredOffset...]), seed: seed)
        }
        guard sum == header.checksum else { throw damaged(header) }
        try accept(header)
        bytes.removeFirst(StreamFormat.recordHeaderLength)
        return bytes
    }

    private mutating func readPageHead(_ header: RecordHeader) throws -> PageHead {
        let fixed = StreamFormat.recordHeaderLength + StreamFormat.pagesHeadLength
        guard header.length >= StreamFormat.pagesHeadLength else {
            throw StreamError(.invalid, "a PAGES record of \(header.length) bytes is too short", at: recordOffset + 12)
        }
        guard try fill(atLeast: fixed) else { throw truncated("within a PAGES record") }
        let head = unsafe UnsafeRawBufferPointer(
            rebasing: buffer[start + StreamFormat.recordHeaderLength..<start + fixed])
        let region = unsafe Int(UInt16(littleEndian: head.loadUnaligned(fromByteOffset: 0, as: UInt16.self)))
        let encodingNumber = unsafe head[2]
        let reserved = unsafe head[3]
        let count = unsafe Int(UInt32(littleEndian: head.loadUnaligned(fromByteOffset: 4, as: UInt32.self)))
        let first = unsafe UInt64(littleEndian: head.loadUnaligned(fromByteOffset: 8, as: UInt64.self))

        // Only fields that decide how much is covered may be believed before the checksum: they are bounded here.
        var covered = fixed
        let isRaw = encodingNumber == PageEncoding.raw.rawValue
        if isRaw {
            guard 1...StreamFormat.rawPagesPerRecord ~= count,
                header.length == StreamFormat.pagesHeadLength + count * (8 + pageByteCount)
            else {
                throw StreamError(
                    .invalid, "a PAGES record of \(header.length) bytes cannot hold \(count) raw pages",
                    at: recordOffset + 12)
            }
            covered += count * 8
        } else {
            covered = StreamFormat.recordHeaderLength + header.length
            guard covered <= Self.capacity else {
                throw StreamError(
                    .unknownFeature, "page encoding \(encodingNumber) is unknown to this program",
                    at: recordOffset + UInt64(StreamFormat.recordHeaderLength) + 2)
            }
        }
        guard try fill(atLeast: covered) else { throw truncated("within a PAGES record") }
        let checked = unsafe UnsafeRawBufferPointer(
            rebasing: buffer[start + RecordHeader.coveredOffset..<start + covered])
        guard unsafe hashBytes(checked, seed: seed) == header.checksum else {
            throw damaged(header)
        }
        guard let encoding = PageEncoding(rawValue: encodingNumber) else {
            throw StreamError(
                .unknownFeature, "page encoding \(encodingNumber) is unknown to this program",
                at: recordOffset + UInt64(StreamFormat.recordHeaderLength) + 2)
        }
        guard reserved == 0, count >= 1, first <= UInt64(Int.max >> 13), header.flags == 0,
            isRaw || header.length == StreamFormat.pagesHeadLength
        else {
            throw StreamError(.invalid, "a PAGES record with fields that make no sense", at: recordOffset)
        }
        if isRaw {
            let from = start + fixed
            for i in 0..<count {
                unsafe hashes[i] = UInt64(
                    littleEndian: buffer.loadUnaligned(fromByteOffset: from + i * 8, as: UInt64.self))
            }
            pendingPages = count
        }
        consume(covered)
        try accept(header)
        return PageHead(
            region: region, encoding: encoding, run: PageRun(start: PageIndex(Int(first)), count: count))
    }

    private mutating func consume(_ count: Int) {
        start += count
        offset += UInt64(count)
    }

    /// Gets at least `count` bytes into the buffer; false if the input ends before.
    private mutating func fill(atLeast count: Int) throws -> Bool {
        guard end - start < count else { return true }
        if start > 0 {
            // Source and target may overlap: copyMemory allows it.
            unsafe buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: buffer[start..<end]))
            end -= start
            start = 0
        }
        while end < count {
            let space = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[end...])
            let none = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
            let read = try unsafe source.read(into: space, then: none)
            guard read > 0 else { return false }
            end += read
        }
        return true
    }

    private func truncated(_ place: String) -> any Error {
        // A connection that ended has a reason of its own, which says more.
        if let connection = source as? Connection { return connection.endOfInput() }
        return StreamError(.truncated, "the stream ends \(place)", at: offset + UInt64(end - start))
    }
}
