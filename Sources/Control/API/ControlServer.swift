/// The control API of one VM: routes, and the socket they are served on. `docs/openapi.yaml` describes it; the two
/// are compared by a test.

import Glibc

/// Serves the API for one VM under the name that its process holds.
public final class ControlServer: Sendable {
    /// How many clients, and how long they may take.
    public struct Limits: Sendable {
        public var connections = 32
        /// From the first byte of a request to its last.
        public var request: Duration = .seconds(10)
        /// Between two requests of a connection.
        public var idle: Duration = .seconds(60)
        /// Until a client has read what it was sent.
        public var response: Duration = .seconds(10)

        public init() {}
    }

    private let server: HTTPServer

    /// Begins to listen at the claim's socket.
    public init(claim: NameClaim, vm: any ControlledVM, limits: Limits = Limits()) throws(ControlError) {
        let routes = ControlRoutes(vm: vm)
        server = HTTPServer(listener: try UnixSocket.listen(at: claim.socketPath), limits: limits) { routes.answer($0) }
        try server.start()
    }

    /// Takes no more requests, lets those under way finish for `grace`, and cuts what is left.
    public func stop(grace: Duration = .seconds(1)) { server.stop(grace: grace) }
}

/// Which request does what.
package struct ControlRoutes: Sendable {
    let vm: any ControlledVM

    /// Every path with its methods.
    package static let paths: [String: [String]] = [
        "/v1": ["GET"],
        "/v1/vm": ["GET"],
        "/v1/vm/pause": ["POST"],
        "/v1/vm/resume": ["POST"],
        "/v1/vm/stop": ["POST"],
        "/v1/guest/report": ["GET"],
        "/v1/migration": ["GET", "POST", "DELETE"],
        "/v1/migration/events": ["GET"],
        "/v1/migration/limits": ["PATCH"],
        "/v1/migration/resolve": ["POST"],
        "/v1/migration/switch": ["POST"],
        "/metrics": ["GET"],
    ]

    func answer(_ request: HTTPRequest) -> HTTPResponse {
        guard let methods = Self.paths[request.path] else {
            return .error(
                ControlError(.notFound, "There is no \(VMName.quoted(request.path)) in this API (docs/openapi.yaml)."))
        }
        guard methods.contains(request.method) else {
            var response = HTTPResponse.error(
                ControlError(
                    .methodNotAllowed,
                    "\(VMName.quoted(request.path)) takes \(methods.joined(separator: ", ")), not \(VMName.quoted(request.method))."
                ))
            response.headers.append(("Allow", methods.joined(separator: ", ")))
            return response
        }
        do throws(ControlError) {
            return try route(request)
        } catch {
            return .error(error)
        }
    }

    private func route(_ request: HTTPRequest) throws(ControlError) -> HTTPResponse {
        switch (request.method, request.path) {
        case ("GET", "/v1"): return .json(ServerInformation.current)
        case ("GET", "/v1/vm"): return .json(vm.status())
        case ("POST", "/v1/vm/pause"):
            try vm.pause()
            return HTTPResponse(status: 204)
        case ("POST", "/v1/vm/resume"):
            try vm.resume()
            return HTTPResponse(status: 204)
        case ("POST", "/v1/vm/stop"):
            try vm.stop()
            return HTTPResponse(status: 202)
        case ("GET", "/v1/guest/report"): return .json(try vm.guestReport(GuestReportRequest(query: request.query)))
        case ("GET", "/v1/migration"): return .json(vm.migration())
        case ("POST", "/v1/migration"):
            return .json(try vm.startMigration(ControlJSON.decode(SendRequest.self, from: request.body)), status: 202)
        case ("DELETE", "/v1/migration"):
            try vm.cancelMigration()
            return HTTPResponse(status: 202)
        case ("POST", "/v1/migration/switch"):
            try vm.switchToPostCopy()
            return HTTPResponse(status: 202)
        case ("GET", "/v1/migration/events"): return try events(request)
        case ("PATCH", "/v1/migration/limits"):
            let limits = try ControlJSON.decode(MigrationLimitsPayload.self, from: request.body)
            if limits.isEmpty { throw ControlError(.badRequest, "The body changes no limit.") }
            return .json(try vm.setLimits(limits))
        case ("POST", "/v1/migration/resolve"):
            let decision = try ControlJSON.decode(ResolveRequest.self, from: request.body)
            guard decision.otherSideIsDead else {
                throw ControlError(
                    .badRequest,
                    "Deciding needs the word that the other side is dead (otherSideIsDead: true): if it is not, "
                        + "the VM may run twice.")
            }
            try vm.resolve(decision)
            return HTTPResponse(status: 204)
        case ("GET", "/metrics"):
            let text = MetricsText.describing(vm.status(), vm.migration())
            return HTTPResponse(status: 200, contentType: "text/plain; version=0.0.4", body: .bytes(Array(text.utf8)))
        default: throw ControlError(.notFound, "This request is not served.")
        }
    }

    /// Server-sent events: `progress` each interval, `finished` once at the end, then the connection closes.
    private func events(_ request: HTTPRequest) throws(ControlError) -> HTTPResponse {
        var interval = Duration.seconds(1)
        if let text = request.query["intervalMilliseconds"] {
            guard let value = Int(text), (20...60_000).contains(value) else {
                throw ControlError(.badRequest, "intervalMilliseconds goes from 20 to 60000.")
            }
            interval = .milliseconds(value)
        }
        let (vm, period) = (vm, interval)
        return HTTPResponse(
            status: 200, contentType: "text/event-stream",
            body: .stream { send in
                var next = Deadline(after: .zero)
                while true {
                    let migration = vm.migration()
                    if !migration.state.isUnderWay {
                        _ = send(ServerSentEvent(name: "finished", migration).bytes)
                        return
                    }
                    if next.hasPassed {
                        guard send(ServerSentEvent(name: "progress", migration).bytes) else { return }
                        next = Deadline(after: period)
                    }
                    vm.awaitMigrationEnd(timeout: min(period, .milliseconds(100)))
                    // An empty piece asks only whether the client is still there.
                    guard send([]) else { return }
                }
            })
    }
}
