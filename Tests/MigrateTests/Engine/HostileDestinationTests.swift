/// A destination that is wrong, absent or mad: the machine runs on at its source, and the report says why.

import Glibc
import DirtyLog
import Migrate
import Synchronization
import Testing
import Units

extension HostileTests {
    @Suite(.serialized) struct HostileDestinationTests {
        /// A migration to a listener that does what `serve` says with its first connection.
        private static func send(to serve: @escaping @Sendable (RawSocket) -> Void) throws -> (
            MigrationReport, ModelMachine
        ) {
            let listener = try RawListener()
            let source = try Hostile.source(mebibytes: 3)
            let thread = try PlainThread(name: "fake") {
                guard let socket = listener.accept(timeout: 10_000) else { return }
                serve(socket)
            }
            let report = OutgoingMigration(
                machine: source, destination: listener.endpoint,
                options: MigrationOptions(lanes: 2, timeouts: Hostile.timeouts), logger: LogBook().logger
            ).run()
            thread.join()
            return (report, source)
        }

        private static let answers: [(String, MigrationOutcome, String, @Sendable (RawSocket) -> Void)] = [
            ("closes at once", .peerLost, "the connection", { _ in }),
            ("resets", .peerLost, "", { $0.reset() }),
            (
                "ends without a byte", .peerLost, "closed the connection",
                {
                    $0.endWriting()
                    _ = $0.isClosed(within: 5000)
                }
            ),
            (
                "ends within its header", .peerLost, "closed the connection",
                {
                    var forge = StreamForge()
                    $0.send(Array(forge.header.prefix(5)))
                    $0.endWriting()
                    _ = $0.isClosed(within: 5000)
                }
            ),
            (
                "HTTP", .refused, "does not speak our protocol",
                {
                    $0.send(Array("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".utf8))
                    _ = $0.isClosed(within: 5000)
                }
            ),
            (
                "a newer version", .refused, "version 9",
                {
                    var forge = StreamForge()
                    forge.version = 9
                    $0.send(forge.header)
                    _ = $0.isClosed(within: 5000)
                }
            ),
            (
                "a refusal with escape codes", .refused, "no?[31m",
                {
                    var forge = StreamForge()
                    $0.send(forge.header + forge.refusal(code: 2, reason: "no\u{1B}[31m"))
                    _ = $0.isClosed(within: 5000)
                }
            ),
            (
                "a refusal with an unknown code", .refused, "because",
                {
                    var forge = StreamForge()
                    $0.send(forge.header + forge.refusal(code: 999, reason: "because"))
                    _ = $0.isClosed(within: 5000)
                }
            ),
            (
                "a WELCOME to somebody else", .refused, "does not answer our HELLO",
                {
                    var forge = StreamForge()
                    $0.send(
                        forge.header
                            + forge.welcome(
                                session: Array(repeating: 9, count: 16), secret: Array(repeating: 1, count: 32))
                    )
                    _ = $0.isClosed(within: 5000)
                }
            ),
            (
                "pages", .refused, "PAGES",
                {
                    var forge = StreamForge()
                    $0.send(forge.header + forge.rawPages(first: 0, fill: [1]))
                    _ = $0.isClosed(within: 5000)
                }
            ),
            (
                "END", .refused, "END",
                {
                    var forge = StreamForge()
                    $0.send(forge.header + forge.end(pages: 0))
                    _ = $0.isClosed(within: 5000)
                }
            ),
        ]

        @Test(.timeLimit(.minutes(1)), arguments: answers.indices)
        func aWrongAnswerEndsTheMigration(_ index: Int) async throws {
            try await hostile {
                let (name, outcome, words, serve) = Self.answers[index]
                let (report, source) = try Self.send(to: serve)
                check(report.outcome == outcome, "\(name): \(report.outcome), \(report.error ?? "")")
                check(report.error?.contains(words) == true, "\(name): \(report.error ?? "")")
                check(source.isRunning, "\(name)")
            }
        }

        @Test(.timeLimit(.minutes(1))) func nobodyThereIsUnreachable() async throws {
            try await hostile {
                let endpoint = try RawListener().endpoint
                let source = try Hostile.source(mebibytes: 3)
                let report = OutgoingMigration(
                    machine: source, destination: endpoint, options: MigrationOptions(), logger: LogBook().logger
                ).run()
                check(report.outcome == .unreachable, "\(report.error ?? "")")
                check(source.isRunning)
            }
        }

        /// Cancel works at any moment, also while the destination has not answered yet.
        @Test(.timeLimit(.minutes(1))) func aSilentDestinationCanBeCancelled() async throws {
            try await hostile {
                let listener = try RawListener()
                let source = try Hostile.source(mebibytes: 3)
                let outgoing = OutgoingMigration(
                    machine: source, destination: listener.endpoint,
                    options: MigrationOptions(lanes: 1, timeouts: Hostile.timeouts), logger: LogBook().logger)
                let canceller = try PlainThread(name: "cancel") {
                    usleep(300_000)
                    outgoing.cancel()
                }
                let begun = MonotonicInstant.now
                let report = outgoing.run()
                canceller.join()
                check(report.outcome == .cancelled, "\(report.outcome): \(report.error ?? "")")
                check((MonotonicInstant.now - begun).inSeconds < 5)
                check(source.isRunning)
            }
        }

        /// A byte now and then is no answer: the time for one is limited as a whole.
        @Test(.timeLimit(.minutes(1))) func aDrippingAnswerIsNotWaitedForForEver() async throws {
            try await hostile {
                let listener = try RawListener()
                let source = try Hostile.source(mebibytes: 3)
                let thread = try PlainThread(name: "fake") {
                    guard let socket = listener.accept(timeout: 10_000) else { return }
                    var forge = StreamForge()
                    let answer = forge.header + forge.refusal(code: 2, reason: String(repeating: "x", count: 4000))
                    for byte in answer {
                        guard socket.send([byte]) else { return }
                        usleep(50_000)
                    }
                }
                let report = OutgoingMigration(
                    machine: source, destination: listener.endpoint,
                    options: MigrationOptions(lanes: 1, timeouts: Hostile.timeouts, welcomeTimeout: .seconds(1)),
                    logger: LogBook().logger
                ).run()
                thread.join()
                check(report.outcome == .peerLost, "\(report.outcome): \(report.error ?? "")")
                check(report.error?.contains("in time") == true, "\(report.error ?? "")")
                check(source.isRunning)
            }
        }

        /// Cancel does not wait for a lane that waits for a destination which takes nothing more.
        @Test(.timeLimit(.minutes(2))) func aStuckLaneDoesNotHoldACancel() async throws {
            try await hostile {
                let source = try Hostile.source(mebibytes: 24, share: 0.9)
                let receiving = try Receiving()
                let proxy = try HostileProxy(to: receiving.endpoint) { flow in
                    flow == Flow(connection: 1, direction: .toDestination)
                        ? ByteMangler.end(at: 500_000, freezes: true) : nil
                }
                var timeouts = Hostile.timeouts
                timeouts.abandon = .seconds(90)
                let outgoing = OutgoingMigration(
                    machine: source, destination: proxy.endpoint,
                    options: MigrationOptions(lanes: 2, timeouts: timeouts), logger: receiving.log.logger)
                let canceller = try PlainThread(name: "cancel") {
                    // It is stuck as soon as the pages stop moving.
                    var last = UInt64.max
                    while outgoing.progress.pagesSent != last || last == 0 {
                        last = outgoing.progress.pagesSent
                        usleep(500_000)
                    }
                    outgoing.cancel()
                }
                let begun = MonotonicInstant.now
                let report = outgoing.run()
                canceller.join()
                check(report.outcome == .cancelled, "\(report.outcome): \(report.error ?? "")")
                check((MonotonicInstant.now - begun).inSeconds < 60)
                check(source.isRunning)
                receiving.end()
                proxy.close()
            }
        }

        /// Lies of a destination that is otherwise real. Type, words of the report, the record and its change.
        private static let lies: [(String, String, Flow, Int, @Sendable (inout [UInt8]) -> Void)] = [
            ("more lanes than wanted", "does not answer", control, 17, { $0[24 + 16 + 32] = 5 }),
            ("no lanes", "0 lanes", control, 17, { $0[24 + 16 + 32] = 0 }),
            ("another lane's READY", "LANE-READY", lane, 20, { $0[24] = 1 }),
            ("a wrong count of pages seen", "count of pages", lane, 22, { $0[24 + 8] ^= 1 }),
            ("a wrong epoch", "count of pages", lane, 22, { $0[24] ^= 2 }),
            (
                "an unknown mandatory record", "type 999", control, 23,
                {
                    $0[8] = 0xE7; $0[9] = 3
                }
            ),
            ("an unknown hand-over message", "unknown kind", control, 23, { $0[24 + 29] = 77 }),
            ("a hand-over message of another version", "version", control, 23, { $0[24 + 28] = 9 }),
        ]
        private static let control = Flow(connection: 0, direction: .toSource)
        private static let lane = Flow(connection: 1, direction: .toSource)

        @Test(.timeLimit(.minutes(1)), arguments: lies.indices)
        func aLieOfTheDestinationEndsTheMigration(_ index: Int) async throws {
            try await hostile {
                let (name, words, flow, type, change) = Self.lies[index]
                let ending = try Hostile.move(lanes: 2, machine: Hostile.source(mebibytes: 3, share: 0.05)) {
                    guard $0 == flow else { return nil }
                    return RecordMangler { mangler, number, piece in
                        number > 0 && piece.recordType == type ? .pass(mangler.reforge(piece, change)) : .pass(piece)
                    }
                }
                Hostile.verify(ending, name)
                check(ending.report.outcome != .completed, "\(name)")
                check(ending.report.error?.contains(words) == true, "\(name): \(ending.report.error ?? "")")
            }
        }

        /// Messages for another session or attempt have no effect.
        @Test(.timeLimit(.minutes(1))) func aRecordOfALaterProgramThatIsOptionalIsSkipped() async throws {
            try await hostile {
                let ending = try Hostile.move(lanes: 1, machine: Hostile.source(mebibytes: 3, share: 0.05)) { flow in
                    flow.connection > 1
                        ? nil
                        : RecordMangler { mangler, number, piece in
                            // TIMINGS and PROGRESS are optional: any of their kind may be unknown to a reader.
                            guard number > 0, piece.recordType == 27 || piece.recordType == 25 else {
                                return .pass(piece)
                            }
                            return .pass(
                                mangler.reforge(piece) {
                                    $0[8] = 0xE7; $0[9] = 3
                                })
                        }
                }
                Hostile.verify(ending, "optional records")
                check(ending.report.outcome == .completed, "\(ending.report.error ?? "")")
            }
        }

        /// What was sent of the state waits in the socket's buffers when the destination is stopped in the pause: the
        /// silence must be noticed all the same, over a transport without timeouts of its own too.
        @Test(.timeLimit(.minutes(2)), arguments: [true, false])
        func aDestinationThatFreezesUnderALargeStateIsNoticed(overUnixSocket: Bool) async throws {
            try await hostile {
                let path = overUnixSocket ? "/tmp/mk-hostile-\(getpid()).sock" : nil
                let machine = LargeStateMachine(try Hostile.source(mebibytes: 3))
                let receiving = try Receiving()
                let proxy = try HostileProxy(to: receiving.endpoint, path: path) { flow in
                    guard flow.connection < 3 else { return nil }
                    return RecordMangler { _, number, piece in
                        flow.connection == 0 && number > 2 && piece.count > 24 && piece.recordType == 3
                            ? .freeze([]) : .pass(piece)
                    }
                }
                let begun = MonotonicInstant.now
                let report = OutgoingMigration(
                    machine: machine, destination: proxy.endpoint,
                    options: MigrationOptions(lanes: 2, timeouts: Hostile.timeouts), logger: receiving.log.logger
                ).run()
                check(report.outcome != .completed)
                check((MonotonicInstant.now - begun).inSeconds < 20, "\(report.error ?? "")")
                check(machine.inner.isRunning, "\(report.error ?? "")")
                receiving.end()
                proxy.close()
                if let path { unlink(path) }
            }
        }
    }
}

/// A model whose devices have 64 MiB of state.
final class LargeStateMachine: MigratableMachine {
    let inner: ModelMachine

    init(_ inner: ModelMachine) { self.inner = inner }

    var configuration: MachineConfiguration { inner.configuration }
    var memory: [MemoryRegion] { inner.memory }
    func makeDirtyTracker() throws -> any DirtyTracker { try inner.makeDirtyTracker() }
    func readPopulation(region: Int, firstPage: PageIndex, words: UnsafeMutableBufferPointer<UInt64>) throws {
        try inner.readPopulation(region: region, firstPage: firstPage, words: words)
    }
    func pause() throws -> UInt64 { try inner.pause() }
    func resume() throws -> UInt64 { try inner.resume() }
    func captureState() throws -> [StateSection] {
        try inner.captureState()
            + (0..<8).map { StateSection(name: "big.\($0)", version: 1, bytes: Array(repeating: 7, count: 8 << 20)) }
    }
    func restoreState(_ sections: [StateSection], clockOffset: Int64) throws {
        try inner.restoreState(sections, clockOffset: clockOffset)
    }
}
