/// The API's client: what `migratectl` itself uses, and what other programs and tests can.

import Glibc

/// Talks to the process of one VM. A connection a request: nothing to keep, nothing to go stale.
public struct ControlClient: Sendable {
    /// The VM's control socket.
    public let socketPath: String
    /// The VM, as messages call it.
    public let name: String
    /// How long to wait for an answer. Pausing a busy VM takes milliseconds; a minute means that nobody is home.
    public var timeout: Duration = .seconds(30)

    /// The client of the VM with this name. Whether it runs shows with the first request (`vmNotFound`).
    ///
    /// - Throws: `runtimeDirectory` if others could have put a false socket there.
    public init(_ name: VMName, in directory: RuntimeDirectory) throws(ControlError) {
        try directory.checkIfPresent()
        self.init(socketPath: directory.socketPath(of: name), name: name.description)
    }

    /// The client of whatever listens at this path.
    public init(socketPath: String, name: String) {
        self.socketPath = socketPath
        self.name = name
    }

    public func information() throws(ControlError) -> ServerInformation { try get("/v1") }
    public func status() throws(ControlError) -> VMStatus { try get("/v1/vm") }
    public func pause() throws(ControlError) { try post("/v1/vm/pause") }
    public func resume() throws(ControlError) { try post("/v1/vm/resume") }
    public func stop() throws(ControlError) { try post("/v1/vm/stop") }
    public func migration() throws(ControlError) -> MigrationStatus { try get("/v1/migration") }
    public func cancelMigration() throws(ControlError) { _ = try exchange("DELETE", "/v1/migration", nil) }

    public func switchToPostCopy() throws(ControlError) { try post("/v1/migration/switch") }

    public func startMigration(_ request: SendRequest) throws(ControlError) -> MigrationStatus {
        try decode(exchange("POST", "/v1/migration", encode(request)))
    }

    public func setLimits(_ limits: MigrationLimitsPayload) throws(ControlError) -> MigrationLimitsPayload {
        try decode(exchange("PATCH", "/v1/migration/limits", encode(limits)))
    }

    public func resolve(_ request: ResolveRequest) throws(ControlError) {
        _ = try exchange("POST", "/v1/migration/resolve", encode(request))
    }

    /// The guest's report as JSON, for a type that the caller knows.
    public func guestReport(_ request: GuestReportRequest = .init()) throws(ControlError) -> [UInt8] {
        var patient = self
        patient.timeout = timeout + request.timeout
        return try patient.exchange("GET", "/v1/guest/report?" + request.query, nil)
    }

    /// Metrics as Prometheus reads them.
    public func metrics() throws(ControlError) -> String {
        String(decoding: try exchange("GET", "/metrics", nil), as: UTF8.self)
    }

    /// Follows the migration: `body` gets each status as it comes, the last one being the end. Returns that last
    /// one. `body` ends the following early by returning false; then the result is the status it was given.
    ///
    /// - Throws: `unreachable` if the VM's process went away before it said how the migration ended.
    public func followMigration(
        every interval: Duration = .seconds(1), _ body: (MigrationStatus) -> Bool
    ) throws(ControlError) -> MigrationStatus {
        let socket = try connect()
        try send("GET", "/v1/migration/events?intervalMilliseconds=\(interval.inMilliseconds)", nil, on: socket)
        var reader = ResponseReader(socket: socket, timeout: timeout, name: name)
        let head = try reader.head()
        guard head.status == 200 else { throw try reader.failure(head) }
        var parser = ServerSentEventParser()
        while true {
            // Nothing for long is a process that hangs: its progress comes once an interval.
            guard let bytes = try reader.some(within: interval + timeout) else { break }
            for event in try parser.append(bytes) {
                let status: MigrationStatus = try decode(event.data)
                if !body(status) || event.name == "finished" { return status }
            }
        }
        throw ControlError(
            .unreachable,
            "The process of VM \(name) ended before it said how the migration went: look at the destination, "
                + "and at what that process printed.")
    }

    /// Whether a socket lies at this path and nobody listens there any more.
    public static func isStaleSocket(_ path: String) -> Bool {
        var status = stat()
        guard unsafe lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK else { return false }
        do throws(ControlError) { _ = try UnixSocket.connect(to: path, timeout: .seconds(1)) } catch {
            return error.code == .vmNotFound
        }
        return false
    }

    // MARK: One request

    private func get<T: Decodable>(_ path: String) throws(ControlError) -> T { try decode(exchange("GET", path, nil)) }
    private func post(_ path: String) throws(ControlError) { _ = try exchange("POST", path, nil) }

    private func encode(_ value: some Encodable) throws(ControlError) -> [UInt8] {
        do { return try ControlJSON.encode(value) } catch {
            throw ControlError(.failed, "Cannot write JSON: \(error).")
        }
    }

    private func decode<T: Decodable>(_ bytes: [UInt8]) throws(ControlError) -> T {
        do throws(ControlError) { return try ControlJSON.decode(T.self, from: bytes) } catch {
            throw ControlError(
                .unreachable, "VM \(name) answers what this program does not understand: \(error.message)")
        }
    }

    private func exchange(_ method: String, _ path: String, _ body: [UInt8]?) throws(ControlError) -> [UInt8] {
        let socket = try connect()
        try send(method, path, body, on: socket)
        var reader = ResponseReader(socket: socket, timeout: timeout, name: name)
        let head = try reader.head()
        guard (200..<300).contains(head.status) else { throw try reader.failure(head) }
        return try reader.body(head)
    }

    private func connect() throws(ControlError) -> UnixSocket {
        do throws(ControlError) { return try UnixSocket.connect(to: socketPath, timeout: timeout) } catch {
            guard error.code == .vmNotFound else { throw error }
            throw ControlError(
                .vmNotFound,
                "No VM named \(name) runs here: migratectl ps lists those that do (nothing listens on \(socketPath)).")
        }
    }

    private func send(_ method: String, _ path: String, _ body: [UInt8]?, on socket: UnixSocket) throws(ControlError) {
        var head = "\(method) \(path) HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        if let body { head += "Content-Type: application/json\r\nContent-Length: \(body.count)\r\n" }
        guard socket.write(Array((head + "\r\n").utf8) + (body ?? []), until: Deadline(after: timeout)) else {
            throw ControlError(.unreachable, "VM \(name) does not take requests: its process may be stopped or ending.")
        }
    }
}

/// Reads one response.
private struct ResponseReader {
    struct Head {
        var status: Int
        var length: Int?
    }

    static let maximumHead = 16 * 1024
    static let maximumBody = 16 * 1024 * 1024

    let socket: UnixSocket
    let timeout: Duration
    let name: String
    private var buffer: [UInt8] = []

    init(socket: UnixSocket, timeout: Duration, name: String) {
        self.socket = socket
        self.timeout = timeout
        self.name = name
    }

    /// What arrived, or nil at the end of the connection.
    mutating func some(within wait: Duration) throws(ControlError) -> [UInt8]? {
        if !buffer.isEmpty {
            defer { buffer = [] }
            return buffer
        }
        guard let bytes = socket.read(atMost: 65536, until: Deadline(after: wait)) else {
            throw ControlError(
                .unreachable, "VM \(name) has not answered for \(wait.components.seconds) s: is its process stopped?")
        }
        return bytes.isEmpty ? nil : bytes
    }

    mutating func head() throws(ControlError) -> Head {
        var bytes: [UInt8] = []
        while true {
            guard let more = try some(within: timeout) else { throw closed }
            bytes += more
            if let end = Self.endOfHead(bytes) {
                buffer = Array(bytes[end...])
                return try parse(String(decoding: bytes[..<end], as: UTF8.self))
            }
            if bytes.count > Self.maximumHead { throw notHTTP }
        }
    }

    mutating func body(_ head: Head) throws(ControlError) -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < head.length ?? Self.maximumBody {
            guard let more = try some(within: timeout) else { break }
            bytes += more
            if bytes.count > Self.maximumBody { throw notHTTP }
        }
        if let length = head.length, bytes.count < length { throw closed }
        return bytes
    }

    /// The error that the server sent.
    mutating func failure(_ head: Head) throws(ControlError) -> ControlError {
        let bytes = try body(head)
        if let payload = try? ControlJSON.decode(ErrorPayload.self, from: bytes) { return payload.error }
        return ControlError(.failed, "VM \(name) answers with HTTP status \(head.status) and no reason.")
    }

    private var closed: ControlError {
        ControlError(.unreachable, "VM \(name) closed the connection without an answer: its process may be ending.")
    }
    private var notHTTP: ControlError {
        ControlError(.unreachable, "What listens for VM \(name) does not speak HTTP as migratectl does.")
    }

    private static func endOfHead(_ bytes: [UInt8]) -> Int? {
        guard bytes.count >= 4 else { return nil }
        for index in 0...(bytes.count - 4) where bytes[index..<(index + 4)].elementsEqual([13, 10, 13, 10]) {
            return index + 4
        }
        return nil
    }

    private func parse(_ text: String) throws(ControlError) -> Head {
        let lines = text.split(separator: "\r\n")
        let status = lines.first?.split(separator: " ") ?? []
        guard status.count >= 2, status[0].hasPrefix("HTTP/1."), let code = Int(status[1]) else { throw notHTTP }
        var head = Head(status: code, length: code == 204 ? 0 : nil)
        for line in lines.dropFirst() {
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2, parts[0].lowercased() == "content-length" else { continue }
            guard let length = Int(parts[1].drop { $0 == " " }), (0...Self.maximumBody).contains(length) else {
                throw notHTTP
            }
            head.length = length
        }
        return head
    }
}
