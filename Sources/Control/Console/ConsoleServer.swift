/// The serial console on a UNIX socket: raw bytes both ways, for `migratectl console`, socat and the like.

import Glibc
import Synchronization

/// Sends the guest's output to whoever is attached, and passes on what they type. Whoever attaches first sees the last
/// output again.
public final class ConsoleServer: Sendable {
    private struct State {
        /// The newest output, for those who come later.
        var recent: [UInt8] = []
        var clients: [Int: UnixSocket] = [:]
        var nextID = 0
        var isStopping = false
    }

    /// Output that a client sees when it attaches.
    static let recentByteCount = 64 << 10
    static let clientLimit = 8
    /// A client that does not read for so long is cut, so that it does not hold up the others.
    static let patience = Duration.milliseconds(200)

    private let listener: Descriptor
    private let state = Mutex(State())
    /// Takes what was typed, and returns how much of it.
    private let input: @Sendable ([UInt8]) -> Int

    /// Begins to listen at the claim's console path.
    /// - Parameter input: passes typed bytes to the guest and returns how many it took.
    public init(claim: NameClaim, input: @escaping @Sendable ([UInt8]) -> Int) throws(ControlError) {
        listener = try UnixSocket.listen(at: claim.consolePath)
        self.input = input
        guard startThread("console", { self.acceptClients() }) else {
            throw ControlError(.failed, "Cannot start the console: no thread can be made.")
        }
    }

    /// Output of the guest, in order. Not from a vCPU: it may wait for a slow client.
    public func deliver(_ bytes: [UInt8]) {
        state.withLock { state in
            state.recent += bytes
            if state.recent.count > Self.recentByteCount * 2 {
                state.recent.removeFirst(state.recent.count - Self.recentByteCount)
            }
            // Under the lock, so that each client gets everything once and in order.
            for (id, client) in state.clients where !client.write(bytes, until: Deadline(after: Self.patience)) {
                client.shutdown()
                state.clients[id] = nil
            }
        }
    }

    /// Cuts everybody off.
    public func stop() {
        shutdown(listener.raw, Int32(SHUT_RDWR))
        state.withLock { state in
            state.isStopping = true
            for client in state.clients.values { client.shutdown() }
            state.clients = [:]
        }
    }

    private var isStopping: Bool { state.withLock { $0.isStopping } }

    private func acceptClients() {
        while !isStopping {
            _ = waitReady(listener.raw, for: Int16(POLLIN), until: nil)
            if isStopping { return }
            guard let client = UnixSocket.accept(from: listener.raw) else {
                // Out of descriptors: the client stays in the queue, so do not spin on it.
                usleep(50_000)
                continue
            }
            attach(client)
        }
    }

    private func attach(_ client: UnixSocket) {
        let id = state.withLock { state -> Int? in
            guard state.clients.count < Self.clientLimit, !state.isStopping else { return nil }
            let recent = Array(state.recent.suffix(Self.recentByteCount))
            guard client.write(recent, until: Deadline(after: Self.patience)) else { return nil }
            state.nextID += 1
            state.clients[state.nextID] = client
            return state.nextID
        }
        guard let id else { return client.shutdown() }
        let started = startThread("console-\(id)") {
            self.passInput(of: client)
            self.state.withLock { $0.clients[id] = nil }
        }
        if !started { state.withLock { $0.clients[id] = nil } }
    }

    private func passInput(of client: UnixSocket) {
        while let bytes = client.read(atMost: 4096, until: nil), !bytes.isEmpty {
            var rest = bytes[...]
            while !rest.isEmpty {
                rest = rest.dropFirst(input(Array(rest)))
                if rest.isEmpty { break }
                // The guest reads slowly: so does the client's socket, from here on.
                usleep(10_000)
                if isStopping || client.peerHasClosed && rest.count == bytes.count { return }
            }
        }
    }
}

/// The client's side of a console, for a loop of its own.
public final class ConsoleConnection: Sendable {
    private let socket: UnixSocket

    /// - Throws: `unsupported` if the VM has no console socket; `vmNotFound` if there is no VM.
    public init(_ name: VMName, in directory: RuntimeDirectory) throws(ControlError) {
        let status = try ControlClient(name, in: directory).status()
        guard let path = status.console else {
            throw ControlError(
                .unsupported, "VM \(name) has no console socket: it was started with another --serial than socket.")
        }
        socket = try UnixSocket.connect(to: path, timeout: .seconds(5))
    }

    /// For `poll`.
    public var descriptor: Int32 { socket.raw }

    /// What arrived; empty at the end. Call it when the descriptor is ready.
    public func read() -> [UInt8] { socket.read(atMost: 65536, until: Deadline(after: .seconds(1))) ?? [] }

    /// False when the VM's process is gone.
    public func write(_ bytes: [UInt8]) -> Bool { socket.write(bytes, until: Deadline(after: .seconds(10))) }
}
