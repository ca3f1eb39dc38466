/// What records say, and whether it agrees with what was there before.

import Units

extension StreamInspector {
    // MARK: - Passing on

    /// Goes on to where the next record begins. Checks raw pages on the way.
    mutating func pass(_ record: inout InspectedRecord, _ verdict: Verdict) throws {
        guard let shape = verdict.shape else {
            summary.stopped =
                verdict.problems.first { $0.kind == .truncated }?.message
                ?? "the damage hides where the next record begins"
            if verdict.problems.contains(where: { $0.kind == .truncated }) { _ = try window.skip(window.count) }
            return
        }
        guard verdict.isKnown else {
            // Once the record's own length may be believed; twice in a row it was the wrong place.
            if damagedInARow > 1 {
                summary.stopped = "the damage hides where the next record begins"
            } else if try !window.skip(shape.total) {
                truncated(&record, "within record \(record.sequence)")
            }
            return
        }
        let hashes = (0..<shape.rawPages).map {
            RecordFields.integer(verdict.bytes, at: RecordShape.decisive + $0 * 8, bytes: 8)
        }
        _ = try window.skip(shape.covered)
        for (number, hash) in hashes.enumerated() {
            guard try window.fill(pageByteCount) else {
                return truncated(&record, "within page \(number) of record \(record.sequence)")
            }
            if window.hash(0..<pageByteCount, seed: 0) != hash { damagedPage(&record, number, hash) }
            _ = try window.skip(pageByteCount)
        }
    }

    private mutating func truncated(_ record: inout InspectedRecord, _ place: String) {
        let problem = StreamProblem(
            .truncated, at: window.endOffset,
            "the stream ends \(place), which begins at byte \(record.offset)")
        record.problems.append(problem)
        summary.stopped = problem.message
    }

    /// The page at the window's start is not what was written.
    private mutating func damagedPage(_ record: inout InspectedRecord, _ number: Int, _ hash: UInt64) {
        var place = "page \(number) of the record"
        if let pages = record.pages {
            let page = pages.firstPage + UInt64(number)
            place += " (page \(page) of region \(pages.region), at byte \(page * UInt64(pageByteCount)) of it)"
        }
        var problem = StreamProblem(
            .damaged, at: window.offset, length: UInt64(pageByteCount), "\(place) does not match its hash")
        if huntsLeft > 0 {
            huntsLeft -= 1
            let bytes = window.bytes(pageByteCount)
            if let byte = DamageHunt.find(in: bytes, range: 0..<pageByteCount, expected: hash, seed: 0) {
                problem = StreamProblem(
                    .damaged, at: window.offset + UInt64(byte.index), length: 1,
                    "byte \(byte.index) of \(place) is \(hexadecimal([bytes[byte.index]])) and was "
                        + "\(hexadecimal([byte.original]))")
            }
        }
        record.problems.append(problem)
    }

    // MARK: - Contents

    /// Fills in what a known record says.
    mutating func explainRecord(_ record: inout InspectedRecord, _ verdict: Verdict) {
        let fields = verdict.fields
        if fields.sequence != nextSequence {
            record.problems.append(
                StreamProblem(
                    .order, at: record.offset + 16, length: 8,
                    "record \(nextSequence) was expected and record \(fields.sequence) came: "
                        + (fields.sequence > nextSequence ? "records are missing" : "it was repeated or moved")))
        }
        if fields.flags & ~RecordHeader.optionalFlag != 0 {
            record.problems.append(
                StreamProblem(
                    .unknown, at: record.offset + 10, length: 2,
                    "record flags \(hexadecimal(UInt64(fields.flags))) are unknown to this program"))
        }
        guard let type = RecordType(rawValue: fields.type) else {
            guard !record.isOptional else { return }
            record.problems.append(
                StreamProblem(
                    .unknown, at: record.offset + 8, length: 2,
                    "records of type \(fields.type) are unknown to this program and may not be skipped"))
            return
        }
        if type == .pages { return explainPages(&record, verdict.bytes) }
        do {
            let payload = Array(verdict.bytes[RecordShape.headerLength...])
            let offset = record.offset + UInt64(RecordShape.headerLength)
            let contents = try Record(type: type, payload: payload, offset: offset)
            record.fields = contents.inspectedFields(explain).map {
                InspectedField(printable($0.name), printable($0.value))
            }
            check(contents, &record)
        } catch {
            record.problems.append(
                StreamProblem(.invalid, at: error.offset ?? record.offset, printable(error.message)))
        }
    }

    private mutating func explainPages(_ record: inout InspectedRecord, _ bytes: [UInt8]) {
        let base = RecordShape.headerLength
        let region = Int(RecordFields.integer(bytes, at: base, bytes: 2))
        let encoding = PageEncoding(rawValue: bytes[base + 2])
        let count = RecordFields.integer(bytes, at: base + 4, bytes: 4)
        let first = RecordFields.integer(bytes, at: base + 8, bytes: 8)
        let name = encoding.map { "\($0)" } ?? "unknown \(bytes[base + 2])"
        record.pages = InspectedPages(region: region, firstPage: first, count: count, encoding: name)
        record.fields = [
            InspectedField("encoding", name), InspectedField("region", "\(region)"),
            InspectedField("pages", "\(first) to \(first &+ count &- 1) (\(count))"),
        ]
        func object(_ kind: StreamProblem.Kind, _ place: Int, _ length: UInt64, _ message: String) {
            record.problems.append(
                StreamProblem(kind, at: record.offset + UInt64(base + place), length: length, message))
        }
        if encoding == nil { object(.unknown, 2, 1, "page encoding \(bytes[base + 2]) is unknown to this program") }
        if encoding == .zero, bytes.count != base + StreamFormat.pagesHeadLength {
            object(.invalid, 16, UInt64(bytes.count - base - 16), "bytes behind the last field of a zero run")
        }
        if bytes[base + 3] != 0 { object(.invalid, 3, 1, "a reserved field is not zero") }
        if record.isOptional { object(.invalid, 0, 1, "pages are not optional") }
        let (end, wraps) = first.addingReportingOverflow(count)
        if count == 0 {
            object(.invalid, 4, 4, "a run of no pages")
        } else if wraps || end > 1 << 40 {
            object(.invalid, 8, 8, "pages beyond the address space")
        } else if let regions, region >= regions.count || end > regions[region] {
            object(.invalid, 0, 16, "pages outside of the VM's memory")
        } else {
            summary.pages += count
            if encoding == .zero { summary.zeroPages += count }
        }
    }

    /// Compares counts with what was there.
    private mutating func check(_ contents: Record, _ record: inout InspectedRecord) {
        func mismatch(_ message: String) {
            record.problems.append(
                StreamProblem(
                    .mismatch, at: record.offset + UInt64(RecordShape.headerLength), length: record.payloadLength,
                    message))
        }
        switch contents {
        case .configuration(let machine):
            regions = machine.memory.map { $0.byteCount / UInt64(pageByteCount) }
        case .epoch(let epoch) where epoch.pages != summary.pages || epoch.zeroPages != summary.zeroPages:
            mismatch(
                "counts \(epoch.pages) pages (\(epoch.zeroPages) zero); there were \(summary.pages) "
                    + "(\(summary.zeroPages) zero)")
        case .end(let totals):
            summary.hasEnd = true
            if totals.records != record.sequence || totals.pages != summary.pages {
                mismatch(
                    "counts \(totals.records) records and \(totals.pages) pages; there were \(record.sequence) and "
                        + "\(summary.pages)")
            }
        default: break
        }
    }
}
