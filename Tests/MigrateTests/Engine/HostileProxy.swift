/// Stands between a source and a destination, and does to their bytes what a test asks for.

import Glibc
import Migrate
import Synchronization

/// One direction of one connection.
struct Flow: Hashable, Sendable {
    enum Direction: Hashable, Sendable { case toDestination, toSource }

    /// Connections in the order in which they came: 0 is the control connection, then the lanes, then redials.
    var connection: Int
    var direction: Direction
}

/// What becomes of bytes.
enum Fate {
    case pass([UInt8])
    /// These, then both directions of the connection are closed.
    case cut([UInt8])
    /// These, then nothing more, and the connection stays open.
    case freeze([UInt8])
    /// These, each byte by itself.
    case drip([UInt8])
}

/// Changes the bytes of one flow. Made for each flow; called by one thread.
protocol Mangler: AnyObject {
    func mangle(_ bytes: [UInt8]) -> Fate
}

final class HostileProxy: Sendable {
    let endpoint: Endpoint
    private let listener: RawListener
    private let destination: Endpoint
    private let makeMangler: @Sendable (Flow) -> (any Mangler)?
    private let state = Mutex(State())

    private struct State {
        var isClosing = false
        var threads: [PlainThread] = []
        var sockets: [RawSocket] = []
    }

    /// - Parameters:
    ///   - path: listens on a UNIX socket instead of TCP.
    ///   - makeMangler: nil for a flow that passes as it is.
    init(to destination: Endpoint, path: String? = nil, _ makeMangler: @escaping @Sendable (Flow) -> (any Mangler)?)
        throws
    {
        listener = try RawListener(path: path)
        endpoint = listener.endpoint
        self.destination = destination
        self.makeMangler = makeMangler
        let thread = try PlainThread(name: "proxy") { [self] in accept() }
        state.withLock { $0.threads.append(thread) }
    }

    private func accept() {
        var number = 0
        while !state.withLock({ $0.isClosing }) {
            guard let near = listener.accept(timeout: 20) else { continue }
            guard let far = try? RawSocket(destination) else {
                near.shutDown()
                continue
            }
            pump(near, far, Flow(connection: number, direction: .toDestination))
            pump(far, near, Flow(connection: number, direction: .toSource))
            number += 1
            state.withLock { $0.sockets += [near, far] }
        }
    }

    private func pump(_ from: RawSocket, _ to: RawSocket, _ flow: Flow) {
        let thread = try? PlainThread(name: "pump") { [self] in
            let mangler = makeMangler(flow)
            while true {
                let bytes = from.receive(timeout: -1)
                guard !bytes.isEmpty else { break }
                switch mangler?.mangle(bytes) ?? .pass(bytes) {
                case .pass(let bytes):
                    if bytes.isEmpty || to.send(bytes) { continue }
                case .cut(let bytes): to.send(bytes)
                case .drip(let bytes):
                    if bytes.allSatisfy({ to.send([$0]) }) { continue }
                case .freeze(let bytes):
                    to.send(bytes)
                    // Not read any more, so that the sender's buffers fill up, as with a stopped process.
                    while !state.withLock({ $0.isClosing }) { usleep(20_000) }
                }
                break
            }
            from.shutDown()
            to.shutDown()
        }
        if let thread { state.withLock { $0.threads.append(thread) } }
    }

    /// Ends everything, and waits for it.
    func close() {
        state.withLock { $0.isClosing = true }
        while true {
            let (threads, sockets) = state.withLock { state in
                defer { state.threads = [] }
                return (state.threads, state.sockets)
            }
            guard !threads.isEmpty else { return }
            for socket in sockets { socket.shutDown() }
            for thread in threads { thread.join() }
        }
    }
}

/// Works on the stream as a row of bytes.
final class ByteMangler: Mangler {
    private var offset = 0
    private let change: (_ offset: Int, _ bytes: inout [UInt8]) -> Bool
    private let freezes: Bool

    /// - Parameter change: changes bytes that begin at an offset of the stream; false cuts behind them.
    init(freezes: Bool = false, _ change: @escaping (_ offset: Int, _ bytes: inout [UInt8]) -> Bool) {
        self.change = change
        self.freezes = freezes
    }

    static func flip(bit: Int, at place: Int) -> ByteMangler {
        ByteMangler { offset, bytes in
            if bytes.indices.contains(place - offset) { bytes[place - offset] ^= 1 << UInt8(bit) }
            return true
        }
    }

    static func end(at place: Int, freezes: Bool = false) -> ByteMangler {
        ByteMangler(freezes: freezes) { offset, bytes in
            guard offset + bytes.count >= place else { return true }
            bytes = Array(bytes.prefix(max(place - offset, 0)))
            return false
        }
    }

    func mangle(_ bytes: [UInt8]) -> Fate {
        var bytes = bytes
        let length = bytes.count
        let goesOn = change(offset, &bytes)
        offset += length
        return goesOn ? .pass(bytes) : freezes ? .freeze(bytes) : .cut(bytes)
    }
}

/// Sends each byte by itself.
final class DrippingMangler: Mangler {
    func mangle(_ bytes: [UInt8]) -> Fate { .drip(bytes) }
}

/// Works on the stream as a row of records. Number 0 is the stream's header, 1 the first record.
final class RecordMangler: Mangler {
    private var splitter = RecordSplitter()
    private var number = 0
    private(set) var seed: UInt64 = 0
    private let change: (RecordMangler, _ number: Int, _ piece: [UInt8]) -> Fate

    init(_ change: @escaping (RecordMangler, _ number: Int, _ piece: [UInt8]) -> Fate) { self.change = change }

    /// Ends the flow before piece `number`.
    static func end(before last: Int, freezes: Bool = false) -> RecordMangler {
        RecordMangler { _, number, piece in
            number < last ? .pass(piece) : freezes ? .freeze([]) : .cut([])
        }
    }

    func mangle(_ bytes: [UInt8]) -> Fate {
        var out: [UInt8] = []
        for piece in splitter.feed(bytes) {
            if number == 0 { seed = UInt64(bitPattern: Int64(piece.number(at: 24, bytes: 8))) }
            defer { number += 1 }
            switch change(self, number, piece) {
            case .pass(let piece): out += piece
            case .cut(let piece): return .cut(out + piece)
            case .freeze(let piece): return .freeze(out + piece)
            case .drip(let piece): return .drip(out + piece)
            }
        }
        return .pass(out)
    }

    /// A record with other contents and a checksum that fits: what only a peer itself can send.
    func reforge(_ record: [UInt8], _ change: (inout [UInt8]) -> Void) -> [UInt8] {
        var record = record
        change(&record)
        let isRaw = record.recordType == 2 && record[26] == 2
        let covered = isRaw ? 40 + 8 * record.number(at: 28, bytes: 4) : record.count
        let sum = StreamForge.hash(Array(record[8..<covered]), seed: seed)
        for i in 0..<8 { record[i] = UInt8(truncatingIfNeeded: sum >> UInt64(8 * i)) }
        return record
    }
}
