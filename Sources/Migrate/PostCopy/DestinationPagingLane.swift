/// A connection that brings pages after the switch: reads each into a buffer of its own, checks it, and installs it.

import Glibc
import Synchronization
import Units

/// The lane. Its thread touches no guest memory: whoever waits for a page must not keep the page from coming.
@safe
final class DestinationPagingLane: @unchecked Sendable {
    let index: Int
    let connection: Connection
    private var reader: RecordReader
    private let install: @Sendable (PageHead, UnsafeRawPointer, UnsafeBufferPointer<UInt64>) throws -> Int
    private let heardServed: (ServedRecord) throws -> Void
    private let onEnd: (any Error) -> Void
    private var thread: PlainThread?

    /// - Parameters:
    ///   - install: takes a head, the pages behind it, and their hashes; returns bytes accounted.
    ///   - onEnd: called once, when nothing more comes.
    init(
        index: Int, connection: Connection, reader: consuming RecordReader,
        install: @escaping @Sendable (PageHead, UnsafeRawPointer, UnsafeBufferPointer<UInt64>) throws -> Int,
        heardServed: @escaping @Sendable (ServedRecord) throws -> Void, onEnd: @escaping @Sendable (any Error) -> Void
    ) {
        self.index = index
        self.connection = connection
        self.reader = reader
        unsafe self.install = install
        self.heardServed = heardServed
        self.onEnd = onEnd
    }

    func start() throws { thread = try PlainThread(name: "paging-\(index)") { [self] in work() } }

    /// Ends the thread. Not from it.
    func leave(because reason: String) {
        connection.shutDown(because: TransportError(.shutDown, reason))
        thread?.join()
        thread = nil
    }

    private func work() {
        let staging = UnsafeMutableRawPointer.allocate(
            byteCount: StreamFormat.rawPagesPerRecord * pageByteCount, alignment: pageByteCount)
        defer { unsafe staging.deallocate() }
        do {
            while let record = try reader.next() {
                switch record {
                case .pages(let head): try unsafe take(head, staging)
                case .record(.served(let served)) where index == 0: try heardServed(served)
                case .record(.end): break
                case .record(let other):
                    throw StreamError(.unexpected, "a \(other.type) record on paging lane \(index)")
                }
            }
            throw connection.endOfInput()
        } catch {
            onEnd(error)
        }
    }

    private func take(_ head: PageHead, _ staging: UnsafeMutableRawPointer) throws {
        // The hashes are the reader's until its next record.
        let hashes = unsafe reader.pageHashes
        if head.encoding == .raw {
            try unsafe reader.readPages(
                into: UnsafeMutableRawBufferPointer(start: staging, count: head.run.byteCount))
        }
        _ = try unsafe install(head, staging, hashes)
    }
}
