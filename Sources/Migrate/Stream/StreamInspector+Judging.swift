/// Telling what a record is, and what of it can be believed.

import Units

extension StreamInspector {
    /// What is known of the record at the window's start.
    struct Verdict {
        /// As written if `isKnown`, otherwise as they stand.
        var fields: RecordFields
        /// Nil when nobody can tell where the record ends.
        var shape: RecordShape?
        /// What the checksum covers, as it was written; only if `isKnown`.
        var bytes: [UInt8] = []
        /// The record is intact, or its one wrong byte was found.
        var isKnown = false
        var problems: [StreamProblem] = []
    }

    /// Looks at a record, whose header is in the window.
    mutating func judge() throws -> Verdict {
        let hasDecisive = try window.fill(RecordShape.decisive)
        let head = window.bytes(min(window.count, RecordShape.decisive))
        let fields = RecordFields(head)
        let shape = RecordShape(head)
        var isComplete = false
        if let shape { isComplete = try window.fill(shape.covered) }
        if let shape, isComplete,
            window.hash(RecordHeader.coveredOffset..<shape.covered, seed: seed) == fields.checksum
        {
            return Verdict(fields: fields, shape: shape, bytes: window.bytes(shape.covered), isKnown: true)
        }
        if let verdict = try repair(head, isComplete ? shape : nil) { return verdict }
        let isPlausible = plausibility(of: fields).isEmpty && (shape != nil || !hasDecisive)
        if !isComplete, isPlausible {
            let problem = StreamProblem(
                .truncated, at: window.endOffset,
                "the stream ends within record \(fields.sequence), a \(Self.name(of: fields.type)) of "
                    + "\(RecordShape.headerLength + fields.length) bytes that begins at byte \(window.offset)")
            return Verdict(fields: fields, problems: [problem])
        }
        var doubts = plausibility(of: fields)
        if shape == nil, doubts.isEmpty { doubts.append("its page counts and lengths do not agree") }
        let problem = StreamProblem(
            .damaged, at: window.offset, length: isPlausible ? (shape?.covered).map { UInt64($0) } : nil,
            "the checksum of record \(nextSequence) is wrong"
                + (doubts.isEmpty
                    ? "; more than one byte of its header or payload is, or it comes from another stream"
                    : ": " + doubts.joined(separator: ", ")))
        return Verdict(fields: fields, shape: isPlausible ? shape : nil, problems: [problem])
    }

    /// What speaks against a header.
    private func plausibility(of fields: RecordFields) -> [String] {
        var doubts: [String] = []
        if RecordType(rawValue: fields.type) == nil { doubts.append("its type \(fields.type) is unknown") }
        if fields.sequence != nextSequence { doubts.append("it says that it is record \(fields.sequence)") }
        if fields.flags & ~RecordHeader.optionalFlag != 0 {
            doubts.append("its flags \(hexadecimal(UInt64(fields.flags))) are unknown")
        }
        if fields.length > StreamFormat.payloadLimit(of: fields.type) {
            doubts.append("it claims \(fields.length) bytes")
        }
        return doubts
    }

    // MARK: - The one wrong byte

    /// Bytes that decide where a record ends: its type and length, and the encoding and count of pages.
    private static let shaping = [8, 9, 12, 13, 14, 15, 26, 28, 29, 30, 31]

    /// Finds the wrong byte, if it is one.
    private mutating func repair(_ head: [UInt8], _ shape: RecordShape?) throws -> Verdict? {
        guard huntsLeft > 0 else { return nil }
        huntsLeft -= 1
        let covered = RecordHeader.coveredOffset
        let stored = RecordFields(head).checksum
        if let shape {
            let computed = window.hash(covered..<shape.covered, seed: seed)
            if let byte = DamageHunt.differingByte(stored, computed) {
                return verdict(byte, window.bytes(shape.covered), shape)
            }
        }
        // A wrong length leads astray: other lengths are tried as well.
        _ = try window.fill(DamageHunt.limit)
        let bytes = window.bytes(min(window.count, DamageHunt.limit))
        for index in Self.shaping where index < head.count {
            for mask in UInt8(1)...255 {
                var changed = head
                changed[index] ^= mask
                guard let other = RecordShape(changed), other.covered != shape?.covered, other.covered <= bytes.count
                else { continue }
                var whole = Array(bytes[..<other.covered])
                whole[index] = changed[index]
                if hashBytes(Array(whole[covered...]), seed: seed) == stored {
                    return verdict(DamagedByte(index: index, original: changed[index]), whole, other)
                }
            }
        }
        guard let shape, shape.covered <= bytes.count else { return nil }
        let whole = Array(bytes[..<shape.covered])
        guard let byte = DamageHunt.find(in: whole, range: covered..<shape.covered, expected: stored, seed: seed)
        else { return nil }
        return verdict(byte, whole, shape)
    }

    private func verdict(_ byte: DamagedByte, _ bytes: [UInt8], _ shape: RecordShape) -> Verdict {
        var bytes = bytes
        let found = window.bytes(byte.index + 1)[byte.index]
        bytes[byte.index] = byte.original
        let fields = RecordFields(bytes)
        let problem = StreamProblem(
            .damaged, at: window.offset + UInt64(byte.index), length: 1,
            "\(RecordFields.name(ofByte: byte.index)) of record \(fields.sequence): the byte is "
                + "\(hexadecimal([found])) and was \(hexadecimal([byte.original]))")
        return Verdict(
            fields: fields, shape: RecordShape(bytes) ?? shape, bytes: bytes, isKnown: true, problems: [problem])
    }
}
