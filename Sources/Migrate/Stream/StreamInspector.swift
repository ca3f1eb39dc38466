/// Explains any stream record by record, and names the first damaged byte of a damaged one.

import Units

/// Reads a stream of any kind (control, lane, file) without trusting it. It goes on behind damage as long as it can
/// tell where the next record begins. For one thread at a time.
///
/// Call `readHeader`, then `next` until it returns nil; `summary` then counts everything.
public struct StreamInspector {
    /// A part of a record whose inside the engine does not know.
    public enum Part {
        case state(StateSection)
        case cpuPolicy([UInt8])
    }

    var window: InspectorWindow
    let explain: (Part) -> [InspectedField]
    var seed: UInt64 = 0
    var nextSequence: UInt64 = 0
    /// Page counts of the regions, once CONFIGURATION was seen.
    var regions: [UInt64]?
    /// Damaged records since the last intact one.
    var damagedInARow = 0
    /// Searches for the damaged byte that may still be made: each costs some tenths of a second at worst.
    var huntsLeft = 64

    /// What was found so far.
    public internal(set) var summary = InspectionSummary()

    /// - Parameter explain: the fields of a state section or a CPU policy; none if it does not know it.
    public init(_ source: any ByteSource, explain: @escaping (Part) -> [InspectedField] = { _ in [] }) {
        window = InspectorWindow(source)
        self.explain = explain
    }

    // MARK: - The header

    /// Reads the stream's header; the first call.
    /// - Returns: nil when the rest cannot be read; `summary` says why.
    /// - Throws: `TransportError` when the source cannot be read.
    public mutating func readHeader() throws -> InspectedHeader? {
        let length = StreamFormat.streamHeaderLength
        guard try window.fill(length) else {
            return stop(
                StreamProblem(
                    .truncated, at: window.endOffset,
                    window.count == 0
                        ? "the stream is empty" : "the stream ends within its header of \(length) bytes"))
        }
        var bytes = window.bytes(length)
        var problems: [StreamProblem] = []
        // The magic comes first: for what is no stream at all, a search for a damaged byte makes no sense.
        let magic = RecordFields.integer(bytes, at: 0, bytes: 8)
        if magic == StreamFormat.magic || DamageHunt.differingByte(magic, StreamFormat.magic) != nil,
            let (damaged, name) = damagedHeaderByte(bytes)
        {
            bytes[damaged.index] = damaged.original
            problems.append(
                StreamProblem(
                    .damaged, at: UInt64(damaged.index), length: 1,
                    "\(name) of the stream header is \(hexadecimal([window.bytes(length)[damaged.index]])) and was "
                        + "\(hexadecimal([damaged.original]))"))
        }
        let header: StreamHeader
        do {
            header = try StreamHeader(parsing: bytes)
        } catch {
            let kind: StreamProblem.Kind =
                error.code == .unknownVersion || error.code == .unknownFeature ? .unknown : .damaged
            return stop(StreamProblem(kind, at: error.offset ?? 0, error.message))
        }
        _ = try window.skip(length)
        seed = header.seed
        problems.forEach { summary.note($0) }
        summary.bytes = window.offset
        return InspectedHeader(
            version: header.version, features: hexadecimal(header.features),
            identifier: hexadecimal(header.identifier), problems: problems)
    }

    /// The one wrong byte of a header whose checksum does not fit, if it is one.
    private func damagedHeaderByte(_ bytes: [UInt8]) -> (DamagedByte, String)? {
        let stored = RecordFields.integer(bytes, at: 40, bytes: 8)
        let computed = hashBytes(Array(bytes.prefix(40)))
        guard stored != computed else { return nil }
        if let byte = DamageHunt.differingByte(stored, computed) {
            return (DamagedByte(index: 40 + byte.index, original: byte.original), "the checksum")
        }
        guard let byte = DamageHunt.find(in: bytes, range: 0..<40, expected: stored, seed: 0) else { return nil }
        let name =
            switch byte.index {
            case 0..<8: "the magic"
            case 8..<10: "the version"
            case 10..<12: "the length"
            case 12..<16: "a reserved field"
            case 16..<24: "the features"
            default: "the stream id"
            }
        return (byte, name)
    }

    /// Ends the inspection: what follows cannot be read.
    mutating func stop<Result>(_ problem: StreamProblem) -> Result? {
        summary.note(problem)
        summary.stopped = problem.message
        summary.bytes = window.offset
        return nil
    }

    // MARK: - Records

    /// Reads the next record.
    /// - Returns: nil at the end, or when the rest cannot be read; `summary` says which.
    /// - Throws: `TransportError` when the source cannot be read.
    public mutating func next() throws -> InspectedRecord? {
        guard summary.stopped == nil else { return nil }
        guard try window.fill(1) else { return finish() }
        guard !summary.hasEnd else {
            return stop(StreamProblem(.invalid, at: window.offset, "bytes follow the END record"))
        }
        let offset = window.offset
        guard try window.fill(RecordShape.headerLength) else {
            return stop(
                StreamProblem(
                    .truncated, at: window.endOffset,
                    "the stream ends within the header of record \(nextSequence), which begins at byte \(offset)"))
        }
        let verdict = try judge()
        var record = InspectedRecord(
            sequence: verdict.fields.sequence, offset: offset, type: Self.name(of: verdict.fields.type),
            typeNumber: verdict.fields.type,
            isOptional: verdict.fields.flags & RecordHeader.optionalFlag != 0,
            payloadLength: UInt64(verdict.fields.length), fields: [], problems: verdict.problems)
        if verdict.isKnown {
            damagedInARow = verdict.problems.isEmpty ? 0 : damagedInARow
            explainRecord(&record, verdict)
            nextSequence = verdict.fields.sequence &+ 1
        } else {
            damagedInARow += 1
            nextSequence &+= 1
        }
        try pass(&record, verdict)
        count(record)
        return record
    }

    private mutating func count(_ record: InspectedRecord) {
        summary.records += 1
        summary.recordsByType[record.type, default: 0] += 1
        summary.bytes = window.offset
        record.problems.forEach { summary.note($0) }
    }

    private mutating func finish() -> InspectedRecord? {
        summary.bytes = window.offset
        guard !summary.hasEnd else { return nil }
        return stop(
            StreamProblem(
                .truncated, at: window.offset,
                "the stream ends without its END record, behind record "
                    + "\(nextSequence == 0 ? "none" : "\(nextSequence - 1)")"))
    }

    static func name(of type: UInt16) -> String {
        RecordType(rawValue: type).map { "\($0)" } ?? "type \(type)"
    }
}
