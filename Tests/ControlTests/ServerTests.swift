import Control
import Foundation
import Testing

/// `docs/openapi.yaml` and the routes are the same list.
@Suite struct DocumentationTests {
    @Test func describesEveryRoute() throws {
        let file = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../docs/openapi.yaml")
        var described: [String: [String]] = [:]
        var path = ""
        for line in try String(contentsOf: file, encoding: .utf8).split(separator: "\n") {
            if line == "components:" { break }
            if line.hasPrefix("  /") { path = String(line.dropFirst(2).dropLast()) }
            if let method = ["get", "post", "delete", "patch", "put"].first(where: { line == "    \($0):" }) {
                described[path, default: []].append(method.uppercased())
            }
        }
        #expect(described == ControlRoutes.paths)
    }
}

/// The API through a real UNIX socket.
@Suite(.timeLimit(.minutes(1))) struct ServerTests {
    @Test func answersEveryCall() throws {
        let test = try TestServer()
        let client = test.client
        #expect(try client.information() == .current)
        #expect(try client.status().memoryBytes == 256 << 20)
        try client.pause()
        #expect(try client.status().state == .paused)
        try client.resume()
        try client.stop()
        #expect(try client.migration() == .none)
        let started = try client.startMigration(
            SendRequest(
                destination: "[::1]:4444", lanes: 3, limits: MigrationLimitsPayload(maxDowntimeMilliseconds: 20)))
        #expect(started.state == .active)
        #expect(started.limits?.maxDowntimeMilliseconds == 20)
        let limits = try client.setLimits(MigrationLimitsPayload(policy: "bounded-time", maxBytesPerSecond: 1 << 30))
        #expect(limits.policy == "bounded-time")
        try client.cancelMigration()
        try client.resolve(ResolveRequest(decision: .keep, otherSideIsDead: true))
        #expect(
            String(decoding: try client.guestReport(GuestReportRequest(verify: true)), as: UTF8.self)
                == #"{"wrongPages":0}"#)
        #expect(
            test.vm.calls == ["pause", "resume", "stop", "send [::1]:4444 lanes 3", "set", "cancel", "resolve keep"])
    }

    @Test func errorsKeepTheirCode() throws {
        let test = try TestServer()
        let error = #expect(throws: ControlError.self) { try test.client.resume() }
        #expect(error?.code == .wrongState)
        #expect(
            error?.message == "Cannot resume: the VM is not running." || error?.message.contains("not paused") == true)
        let resolve = #expect(throws: ControlError.self) {
            try test.client.resolve(ResolveRequest(decision: .discard, otherSideIsDead: false))
        }
        #expect(resolve?.code == .badRequest)
        #expect(!test.vm.calls.contains { $0.hasPrefix("resolve") })
    }

    @Test(arguments: [
        ("GET", "/nowhere", "", 404), ("GET", "/v1/vm/../vm", "", 404), ("PUT", "/v1/vm", "", 405),
        ("HEAD", "/v1/vm", "", 405),
        ("POST", "/v1/migration", "", 400), ("POST", "/v1/migration", "{", 400), ("POST", "/v1/migration", "[]", 400),
        ("POST", "/v1/migration", "{}", 400), ("POST", "/v1/migration", #"{"destination":5}"#, 400),
        ("POST", "/v1/migration", #"{"destination":"h:1","lanes":17}"#, 400),
        ("POST", "/v1/migration", #"{"destination":"h:1","lanes":1e99}"#, 400),
        ("POST", "/v1/migration", #"{"destination":"h:1","lane":2}"#, 400),
        ("POST", "/v1/migration", #"{"destination":"h:1","limits":{"maxDowntime":2}}"#, 400),
        ("POST", "/v1/migration", #"{"destination":"h:1","limits":{"maxDowntimeMilliseconds":-2}}"#, 400),
        ("POST", "/v1/migration", #"{"destination":"h:1","limits":{"policy":"best"}}"#, 400),
        ("PATCH", "/v1/migration/limits", "{}", 400),
        ("PATCH", "/v1/migration/limits", #"{"maxTimeMilliseconds":-1}"#, 400),
        ("POST", "/v1/migration/resolve", #"{"decision":"keep"}"#, 400),
        ("POST", "/v1/migration/resolve", #"{"decision":"both","otherSideIsDead":true}"#, 400),
        ("GET", "/v1/migration/events?intervalMilliseconds=0", "", 400),
    ])
    func refusesBadRequests(_ method: String, _ path: String, _ body: String, _ status: Int) throws {
        let test = try TestServer()
        let answer = try test.raw(
            "\(method) \(path) HTTP/1.1\r\nConnection: close\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)")
        #expect(answer.hasPrefix("HTTP/1.1 \(status) "), "\(answer)")
        #expect(answer.contains(#"{"error":{"code":""#))
        #expect(test.vm.calls.isEmpty)
    }

    @Test func refusesGarbageWithAnAnswer() throws {
        let test = try TestServer()
        #expect(try test.raw("\u{16}\u{03}\u{01}not http at all\n\n").hasPrefix("HTTP/1.1 400 "))
        #expect(try test.raw(String(repeating: "x", count: 100_000)).hasPrefix("HTTP/1.1 431 "))
        #expect(
            try test.raw("POST /v1/migration HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n").hasPrefix("HTTP/1.1 413 "))
        #expect(try test.client.status().state == .running)
    }

    @Test func answersSeveralRequestsOnAConnection() throws {
        let test = try TestServer()
        let answer = try test.raw("GET /v1 HTTP/1.1\r\n\r\nGET /v1/vm HTTP/1.1\r\nConnection: close\r\n\r\n")
        #expect(answer.components(separatedBy: "HTTP/1.1 200 OK").count == 3)
    }

    @Test func cutsSlowClients() throws {
        var limits = ControlServer.Limits()
        limits.request = .milliseconds(200)
        limits.idle = .milliseconds(300)
        let test = try TestServer(limits: limits)
        // Half a request, then a byte now and then: the clock runs from the first byte.
        let socket = try UnixSocket.connect(to: test.claim.socketPath, timeout: .seconds(1))
        for byte in "GET /v1 HT".utf8 {
            guard socket.write([byte], until: Deadline(after: .seconds(1))) else { break }
            usleep(40_000)
        }
        #expect(test.read(socket, .seconds(2)).hasPrefix("HTTP/1.1 408 "))
        // Nothing at all: closed without a word.
        #expect(try test.raw("", thenWait: .seconds(2)) == "")
    }

    @Test func admitsAFewClientsOnly() throws {
        var limits = ControlServer.Limits()
        limits.connections = 2
        let test = try TestServer(limits: limits)
        let first = try UnixSocket.connect(to: test.claim.socketPath, timeout: .seconds(1))
        let second = try UnixSocket.connect(to: test.claim.socketPath, timeout: .seconds(1))
        #expect(try test.raw("GET /v1 HTTP/1.1\r\n\r\n").hasPrefix("HTTP/1.1 503 "))
        withExtendedLifetime((first, second)) {}
    }

    @Test func aHundredClientsAtATimeAllGetAnAnswer() async throws {
        let test = try TestServer()
        let path = test.claim.socketPath
        let answered = await withTaskGroup(of: Bool.self) { group in
            for _ in 0..<100 {
                group.addTask {
                    // The server admits 32 at a time; the others are told so and come again.
                    for _ in 0..<200 {
                        do {
                            _ = try ControlClient(socketPath: path, name: "vm1").status()
                            return true
                        } catch let error as ControlError where error.code == .busy || error.code == .unreachable {
                            try? await Task.sleep(for: .milliseconds(10))
                        } catch {
                            return false
                        }
                    }
                    return false
                }
            }
            return await group.reduce(into: 0) { $0 += $1 ? 1 : 0 }
        }
        #expect(answered == 100)
    }

    @Test func theClientSaysWhenNobodyIsHome() throws {
        let scratch = try Scratch()
        let error = #expect(throws: ControlError.self) {
            try ControlClient(VMName("ghost"), in: scratch.directory).status()
        }
        #expect(error?.code == .vmNotFound)
        #expect(error?.message.contains("ghost") == true)
    }

    @Test func stoppingTheServerEndsItsConnections() throws {
        let test = try TestServer()
        let idle = try UnixSocket.connect(to: test.claim.socketPath, timeout: .seconds(1))
        _ = try test.client.status()
        test.server.stop(grace: .seconds(1))
        #expect(test.read(idle, .seconds(1)) == "")
        #expect(throws: ControlError.self) { try test.client.status() }
    }
}

@Suite(.timeLimit(.minutes(1))) struct EventTests {
    @Test func followsAMigrationToItsEnd() throws {
        let test = try TestServer()
        _ = try test.client.startMigration(SendRequest(destination: "h:1"))
        let vm = test.vm
        // Threads, not tasks: these tests block the cooperative pool's few threads while they follow.
        Thread.detachNewThread {
            for round in 1...3 {
                usleep(60_000)
                vm.set { $0.migration.message = "round \(round)" }
            }
            usleep(60_000)
            vm.set { $0.migration.state = .completed }
        }
        var messages: [String?] = []
        let last = try test.client.followMigration(every: .milliseconds(30)) {
            messages.append($0.message)
            return true
        }
        #expect(last.state == .completed)
        #expect(messages.count >= 4)
        #expect(messages.contains("round 2"))
    }

    @Test func aFinishedMigrationIsOneEvent() throws {
        let test = try TestServer()
        let answer = try test.raw("GET /v1/migration/events HTTP/1.1\r\n\r\n")
        #expect(answer.contains("Content-Type: text/event-stream\r\n"))
        #expect(answer.hasSuffix("\r\n\r\nevent: finished\ndata: {\"state\":\"none\"}\n\n"))
    }

    @Test func theFollowerHearsThatTheProcessWent() throws {
        let test = try TestServer()
        _ = try test.client.startMigration(SendRequest(destination: "h:1"))
        let server = test.server
        Thread.detachNewThread {
            usleep(150_000)
            server.stop(grace: .zero)
        }
        let error = #expect(throws: ControlError.self) {
            try test.client.followMigration(every: .milliseconds(30)) { _ in true }
        }
        #expect(error?.code == .unreachable)
    }

    /// The stream's thread must not outlive its client.
    @Test func aFollowerThatLeavesFreesItsPlace() throws {
        var limits = ControlServer.Limits()
        limits.connections = 1
        let test = try TestServer(limits: limits)
        test.vm.set { $0.migration = MigrationStatus(state: .active) }
        _ = try test.client.followMigration(every: .milliseconds(20)) { _ in false }
        var answered = false
        for _ in 0..<50 where !answered {
            usleep(20_000)
            answered = (try? test.client.status()) != nil
        }
        #expect(answered)
    }
}

@Suite struct MetricsTests {
    /// Every line is a comment or `name{labels} number`; each name is introduced once, before its samples.
    @Test func areInPrometheusFormat() throws {
        let test = try TestServer()
        let finished = try ControlJSON.decode(
            MigrationStatus.self,
            from: Array(
                """
                {"state": "completed", "direction": "outgoing", "peer": "h:1",
                 "progress": {"phase": "ended", "round": 3, "elapsedSeconds": 1.5, "pagesTotal": 9, "pagesSent": 9,
                  "bytesSent": 123456789012, "pagesRemaining": 0, "bytesPerSecond": "inf", "dirtyBytesPerSecond": 0.5},
                 "report": {"outcome": "completed", "machine": "vm1", "destination": "h:1", "session": "0", "lanes": 1,
                  "totalSeconds": 1, "setupSeconds": 0, "downtimeMilliseconds": 2.5, "rounds": [], "attempts": 1,
                  "phases": {"pause": 0.5, "capture": 0, "lastLog": 0, "residue": 0, "ready": 0, "commit": 0, "resume": 0},
                  "pagesTotal": 9, "pagesSent": 9, "pagesZero": 0, "pagesResent": 0, "bytesSent": 1, "downtimeBytes": 1,
                  "bytesPerSecond": 1}}
                """.utf8))
        test.vm.set {
            $0.status.name = "odd\"na\\me\n"
            $0.migration = finished
        }
        let text = try test.client.metrics()
        let sample = try Regex(#"^[a-z_]+(\{([a-z_]+="([^"\\]|\\.)*",?)+\})? (NaN|[+-]Inf|-?[0-9.e+-]+)$"#)
        var introduced: Set<String> = []
        var current = ""
        for line in text.split(separator: "\n") {
            if line.hasPrefix("# HELP ") {
                current = String(line.split(separator: " ")[2])
                #expect(introduced.insert(current).inserted)
            } else if line.hasPrefix("# TYPE ") {
                #expect(line.split(separator: " ")[2] == current)
            } else {
                #expect(line.wholeMatch(of: sample) != nil, "\(line)")
                #expect(line.hasPrefix(current))
            }
        }
        #expect(text.contains(#"name="odd\"na\\me\n""#))
        #expect(text.contains("migratectl_migration_sent_bytes_total 123456789012\n"))
        #expect(text.contains("migratectl_vm_state{state=\"running\"} 1\n"))
        #expect(text.contains("migratectl_migration_downtime_phase_seconds{phase=\"pause\"} 0.0005\n"))
        #expect(text.hasSuffix("\n"))
    }
}
