/// The source's way into a session: connect, offer the VM, open the lanes.

import Logging

/// A session that the destination has agreed to.
struct SourceSession {
    let identifier: SessionIdentifier
    let connection: Connection
    let writer: RecordWriter
    let lanesGranted: Int
    let laneSecret: [UInt8]

    /// Connects and offers the VM.
    /// - Parameter welcomeTimeout: how long a destination may take to build its VM and to say so.
    /// - Parameter onConnected: learns of the connection while it is waited for, to shut it down.
    /// - Returns: the session, and the reader that its control connection goes on with.
    /// - Throws: `MigrationError` that says who refused what and why.
    static func open(
        to destination: Endpoint, configuration: MachineConfiguration, lanes: Int, needs: Hello.Needs,
        recorder: StreamRecorder?,
        welcomeTimeout: Duration, onConnected: (Connection) -> Void
    ) throws -> (SourceSession, ReaderHandle) {
        let connection: Connection
        do {
            connection = try Connection.connect(to: destination)
        } catch {
            throw MigrationError(.unreachable, "\(error)")
        }
        do {
            onConnected(connection)
            connection.setWriteTimeout(welcomeTimeout)
            let identifier = SessionIdentifier.random()
            let writer = try RecordWriter(connection, recorder: recorder)
            let hello = Hello(session: identifier, lanes: UInt16(lanes), needs: needs, program: programName)
            try writer.send(.hello(hello), .configuration(configuration))
            connection.setReadDeadline(.now + welcomeTimeout)
            let reader = ReaderHandle(RecordReader(connection))
            _ = try reader.readStreamHeader()
            let answer = try reader.next()
            connection.setReadDeadline(nil)
            switch answer {
            case .welcome(let welcome):
                guard welcome.session == identifier, Int(welcome.lanes) <= lanes else {
                    throw StreamError(.invalid, "the destination's WELCOME does not answer our HELLO")
                }
                return (
                    SourceSession(
                        identifier: identifier, connection: connection, writer: writer,
                        lanesGranted: Int(welcome.lanes), laneSecret: welcome.laneSecret),
                    reader
                )
            case .refusal(let refusal):
                throw MigrationError(.refused, "\(destination) refused the VM: \(refusal.reason)")
            case nil: throw connection.endOfInput()
            case .some(let other):
                throw StreamError(.unexpected, "the destination answered with \(other.type) instead of WELCOME")
            }
        } catch let error as MigrationError {
            throw error
        } catch let error as StreamError {
            throw MigrationError(.refused, "\(destination) does not speak our protocol: \(error)")
        } catch {
            throw MigrationError(.peerLost, "\(error)")
        }
    }

    /// Opens lane `index`.
    /// - Parameter stall: a destination that takes no page, or does not say that it has them, for so long is stuck, even
    ///   if its control connection says that it lives.
    func openLane(
        _ index: Int, to destination: Endpoint, context: LaneContext, recorder: StreamRecorder?, stall: Duration
    ) throws -> SourceLane {
        let connection = try Connection.connect(to: destination)
        connection.setLaneBuffers()
        connection.setReadTimeout(.seconds(10))
        let greeting = LaneGreeting(session: identifier, lane: UInt16(index), secret: laneSecret)
        let lane = try SourceLane(
            index: index, connection: connection, greeting: greeting, context: context, recorder: recorder)
        connection.setReadTimeout(stall)
        connection.setWriteTimeout(stall)
        return lane
    }
}

/// What both sides call themselves, for people.
let programName = "migratectl 0.1"

/// A reader that can be kept in a class or handed to a thread.
final class ReaderHandle: @unchecked Sendable {
    private var reader: RecordReader

    init(_ reader: consuming RecordReader) { self.reader = reader }

    func readStreamHeader() throws -> StreamHeader { try reader.readStreamHeader() }

    /// The next small record; nil at the end.
    func next() throws -> Record? {
        switch try reader.next() {
        case nil: nil
        case .record(let record): record
        case .pages: throw StreamError(.unexpected, "a PAGES record on the control connection")
        }
    }
}
