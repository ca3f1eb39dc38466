/// Writes the small records of a stream. Pages have a writer of their own (`PageWriter`), which shares the numbering.

import CPageKernels
import Synchronization

/// Numbers and checksums records of one stream.
struct RecordFramer {
    private let seed: UInt64
    private(set) var sequence: UInt64 = 0

    init(_ header: StreamHeader) { seed = header.seed }

    /// A whole record, ready to be written.
    mutating func frame(_ record: Record) -> [UInt8] {
        var encoder = PayloadEncoder()
        let payload = record.payload
        encoder.put(record.type.rawValue)
        encoder.put(record.type.isOptional ? RecordHeader.optionalFlag : 0)
        encoder.put(UInt32(payload.count))
        encoder.put(sequence)
        encoder.put(raw: payload)
        var whole = PayloadEncoder()
        whole.put(hashBytes(encoder.bytes, seed: seed))
        whole.put(raw: encoder.bytes)
        sequence += 1
        return whole.bytes
    }

    /// Fills in sequence and checksum of a record whose other covered bytes stand at `record`, `length` bytes with
    /// the header.
    mutating func seal(_ record: UnsafeMutableRawPointer, length: Int) {
        unsafe record.storeBytes(of: sequence.littleEndian, toByteOffset: 16, as: UInt64.self)
        let offset = RecordHeader.coveredOffset
        let sum = unsafe mk_hash(record + offset, length - offset, seed)
        unsafe record.storeBytes(of: sum.littleEndian, toByteOffset: 0, as: UInt64.self)
        sequence += 1
    }
}

/// The writing side of a control connection: any thread may send.
final class RecordWriter: Sendable {
    private let connection: Connection
    private let framer: Mutex<RecordFramer>
    private let recorder: StreamRecorder?

    /// Opens the stream: its header leaves at once.
    init(_ connection: Connection, recorder: StreamRecorder? = nil) throws {
        let header = StreamHeader()
        self.connection = connection
        self.recorder = recorder
        framer = Mutex(RecordFramer(header))
        try connection.write(header.bytes)
        recorder?.append(header.bytes)
    }

    /// Sends `records` with one write, so that they leave together.
    func send(_ records: Record...) throws { try send(records) }

    func send(_ records: [Record]) throws {
        try framer.withLock { framer in
            var bytes: [UInt8] = []
            for record in records { bytes += framer.frame(record) }
            try connection.write(bytes)
            recorder?.append(bytes)
        }
    }

    /// Sends a record that is worth sending only if nothing else is under way: what is under way says as much.
    func sendUnlessBusy(_ record: Record) throws {
        _ = try framer.withLockIfAvailable { framer in
            let bytes = framer.frame(record)
            try connection.write(bytes)
            recorder?.append(bytes)
        }
    }

    /// Records sent so far.
    var recordCount: UInt64 { framer.withLock { $0.sequence } }
}
