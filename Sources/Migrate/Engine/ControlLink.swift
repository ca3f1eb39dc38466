/// The control connection of a session, which may break and be replaced.

import Logging
import Synchronization

/// Sends over the connection that stands now, and hands on what it brings. Each connection has a number, so that what
/// an old one still brings is told apart.
final class ControlLink: Sendable {
    /// What a connection brings.
    enum Happening: Sendable {
        /// It stands. Comes before anything that it brings.
        case up
        case record(Record)
        /// It is gone; nothing more comes of it.
        case down(any Error)
    }

    private struct Current {
        var connection: Connection
        var writer: RecordWriter
        var generation: Int
    }

    private struct State {
        var current: Current?
        var generation = 0
    }

    private let state = Mutex(State())
    private let threads = Mutex<[PlainThread]>([])
    private let deliver: @Sendable (Int, Happening) -> Void

    /// - Parameter deliver: called on the connection's reading thread (`up`: on the one that attaches it), with the
    ///   connection's number.
    init(_ deliver: @escaping @Sendable (Int, Happening) -> Void) { self.deliver = deliver }

    /// Makes `connection` the current one, and starts reading it.
    func attach(_ connection: Connection, writer: RecordWriter, reader: ReaderHandle) throws {
        let generation = state.withLock { state in
            state.generation += 1
            state.current?.connection.shutDown(because: TransportError(.shutDown, "another connection took its place"))
            state.current = Current(connection: connection, writer: writer, generation: state.generation)
            return state.generation
        }
        // Before the thread that reads begins: a message that is heard before the link is known to stand is lost.
        deliver(generation, .up)
        let thread = try PlainThread(name: "control") { [deliver] in
            do {
                while let record = try reader.next() { deliver(generation, .record(record)) }
                throw connection.endOfInput()
            } catch {
                deliver(generation, .down(error))
            }
        }
        threads.withLock { $0.append(thread) }
    }

    /// Whether there was a connection.
    var isAttached: Bool { state.withLock { $0.current != nil } }

    /// Whether `generation` is the connection that stands now.
    func isCurrent(_ generation: Int) -> Bool { state.withLock { $0.current?.generation == generation } }

    /// Sends over the current connection. A failure shows as its end.
    func send(_ records: [Record]) { write { try $0.send(records) } }

    /// Sends a sign of life, unless something else is being sent: whoever asks must not wait behind a slow link.
    func sendUnlessBusy(_ record: Record) { write { try $0.sendUnlessBusy(record) } }

    private func write(_ body: (RecordWriter) throws -> Void) {
        guard let current = state.withLock({ $0.current }) else { return }
        do {
            try body(current.writer)
        } catch {
            let reason = error as? TransportError ?? TransportError(.failed, "\(error)")
            current.connection.shutDown(because: reason)
        }
    }

    func send(_ records: Record...) { send(records) }

    /// Closes the current connection; its end is still delivered.
    func close(because reason: TransportError) {
        state.withLock { $0.current }?.connection.shutDown(because: reason)
    }

    /// Records sent over the current connection.
    var sentRecords: UInt64 { state.withLock { $0.current?.writer.recordCount ?? 0 } }

    /// Ends all reading. Not from a reading thread.
    func end(because reason: TransportError) {
        close(because: reason)
        let all = threads.withLock { threads in
            defer { threads = [] }
            return threads
        }
        for thread in all { thread.join() }
    }
}
