/// An HTTP server on a UNIX socket: a thread a connection, a few connections, strict limits.
///
/// Threads and not tasks, because what the routes do (pausing vCPUs, waiting for a migration) blocks, and nothing
/// that blocks may run on the cooperative pool. A VM has a handful of clients, so a thread each costs nothing.

import Glibc
import Synchronization

/// Serves one listening socket until it is stopped.
final class HTTPServer: Sendable {
    private struct State {
        var connections: [Int: (socket: UnixSocket, isBusy: Bool)] = [:]
        var nextID = 0
        var isStopping = false
    }

    private let listener: Descriptor
    private let limits: ControlServer.Limits
    private let handler: @Sendable (HTTPRequest) -> HTTPResponse
    private let state = Mutex(State())

    init(
        listener: Descriptor, limits: ControlServer.Limits, handler: @escaping @Sendable (HTTPRequest) -> HTTPResponse
    ) {
        self.listener = listener
        self.limits = limits
        self.handler = handler
    }

    /// Starts to accept connections, on a thread of its own.
    func start() throws(ControlError) {
        guard startThread("control", { self.acceptConnections() }) else {
            throw ControlError(.failed, "Cannot start the control server: no thread can be made.")
        }
    }

    /// Takes no more requests, lets those under way finish for `grace`, and then cuts what is left.
    func stop(grace: Duration) {
        state.withLock { state in
            state.isStopping = true
            for connection in state.connections.values where !connection.isBusy { connection.socket.shutdown() }
        }
        shutdown(listener.raw, Int32(SHUT_RDWR))
        let deadline = Deadline(after: grace)
        while !deadline.hasPassed {
            if state.withLock({ $0.connections.isEmpty }) { return }
            usleep(2_000)
        }
        state.withLock { state in
            for connection in state.connections.values { connection.socket.shutdown() }
        }
    }

    private func acceptConnections() {
        while !state.withLock({ $0.isStopping }) {
            _ = waitReady(listener.raw, for: Int16(POLLIN), until: nil)
            if state.withLock({ $0.isStopping }) { return }
            guard let socket = UnixSocket.accept(from: listener.raw) else {
                // Out of descriptors: the connection stays in the queue, so do not spin on it.
                if errno == EMFILE || errno == ENFILE || errno == ENOMEM { usleep(50_000) }
                continue
            }
            serve(socket)
        }
    }

    private func serve(_ socket: UnixSocket) {
        let id = state.withLock { state -> Int? in
            guard state.connections.count < limits.connections, !state.isStopping else { return nil }
            state.nextID += 1
            state.connections[state.nextID] = (socket, false)
            return state.nextID
        }
        guard let id else {
            refuse(
                socket, HTTPRefusal(503, .busy, "Too many clients at a time: \(limits.connections) are served already.")
            )
            return
        }
        let started = startThread("control-\(id)") {
            self.run(socket, id)
            self.state.withLock { _ = $0.connections.removeValue(forKey: id) }
        }
        if !started { state.withLock { _ = $0.connections.removeValue(forKey: id) } }
    }

    /// One connection, request after request.
    private func run(_ socket: UnixSocket, _ id: Int) {
        var parser = HTTPRequestParser()
        do {
            while let request = try nextRequest(of: socket, &parser) {
                guard begin(id) else { return }
                let response = handler(request)
                guard send(response, to: socket, keepsAlive: request.keepsAlive), end(id) else { return }
            }
        } catch {
            refuse(socket, error)
        }
    }

    /// Marks the connection as busy with a request; false when the server stops.
    private func begin(_ id: Int) -> Bool {
        state.withLock { state in
            guard !state.isStopping else { return false }
            state.connections[id]?.isBusy = true
            return true
        }
    }

    private func end(_ id: Int) -> Bool {
        state.withLock { state in
            state.connections[id]?.isBusy = false
            return !state.isStopping
        }
    }

    /// Reads until a request is complete. Nil when the client has closed, or was idle too long.
    private func nextRequest(
        of socket: UnixSocket, _ parser: inout HTTPRequestParser
    ) throws(HTTPRefusal) -> HTTPRequest? {
        var deadline = Deadline(after: parser.isInsideRequest ? limits.request : limits.idle)
        while true {
            if let request = try parser.next() { return request }
            let wasInside = parser.isInsideRequest
            guard let bytes = socket.read(atMost: 4096, until: deadline) else {
                if !wasInside { return nil }
                throw HTTPRefusal(408, .timeout, "The request did not arrive within \(limits.request).")
            }
            if bytes.isEmpty { return nil }
            parser.append(bytes)
            // The clock runs from a request's first byte, so that a byte a second does not hold a thread for hours.
            if !wasInside { deadline = Deadline(after: limits.request) }
            if deadline.hasPassed {
                throw HTTPRefusal(408, .timeout, "The request did not arrive within \(limits.request).")
            }
        }
    }

    /// Sends the response. True if the connection can be used again.
    private func send(_ response: HTTPResponse, to socket: UnixSocket, keepsAlive: Bool) -> Bool {
        let head = response.head(keepsAlive: keepsAlive)
        switch response.body {
        case .bytes(let bytes):
            return socket.write(head + bytes, until: Deadline(after: limits.response)) && keepsAlive
        case .stream(let run):
            guard socket.write(head, until: Deadline(after: limits.response)) else { return false }
            run { piece in
                if piece.isEmpty { return !socket.peerHasClosed }
                return socket.write(piece, until: Deadline(after: self.limits.response))
            }
            return false
        }
    }

    private func refuse(_ socket: UnixSocket, _ refusal: HTTPRefusal) {
        let response = HTTPResponse.error(refusal.error, status: refusal.status)
        _ = send(response, to: socket, keepsAlive: false)
        // Closing while the client still sends would reset the connection and throw the answer away: take what is on
        // its way for a moment.
        _ = Glibc.shutdown(socket.raw, Int32(SHUT_WR))
        let deadline = Deadline(after: .milliseconds(200))
        while !deadline.hasPassed, let bytes = socket.read(atMost: 65536, until: deadline), !bytes.isEmpty {}
    }
}
