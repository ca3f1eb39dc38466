/// Whole migrations between two model machines, over real sockets.

import Glibc
import Logging
import Migrate
import Testing
import Units

@Suite struct PreCopyTests {
    /// Moves a model and returns both machines and both reports.
    static func move(
        _ source: ModelMachine, over endpoint: Endpoint, options: MigrationOptions = MigrationOptions()
    ) async throws -> (destination: ModelMachine?, sent: MigrationReport, received: ReceiveReport?) {
        let listener = try Listener(endpoint)
        let incoming = IncomingMigration(
            listener: listener, builder: ModelBuilder(pagesPerSecond: source.pagesPerSecond, disk: source.disk),
            options: ReceiveOptions(), logger: Logger(label: "destination"))
        let outgoing = OutgoingMigration(
            machine: source, destination: listener.endpoint, options: options, logger: Logger(label: "source"))
        async let result: (any MigratableMachine, ReceiveReport)? = onThread { try? incoming.run() }
        let report = try await onThread { outgoing.run() }
        if report.outcome != .completed { incoming.cancel() }
        let received = try await result
        try await onThread { incoming.close(waiting: .seconds(5)) }
        return (received?.0 as? ModelMachine, report, received?.1)
    }

    @Test(arguments: [
        (Endpoint.tcp(host: "127.0.0.1", port: 0), 1), (.tcp(host: "127.0.0.1", port: 0), 3),
        (.tcp(host: "::1", port: 0), 2), (.unix(path: "/tmp/mk-precopy-\(getpid()).sock"), 2),
    ])
    func movesARunningMachineWhole(_ endpoint: Endpoint, _ lanes: Int) async throws {
        let source = ModelMachine(configuration: .model(mebibytes: 64), pagesPerSecond: 5000)
        source.fill(share: 0.5)
        _ = try source.resume()
        usleep(20_000)
        let (destination, sent, received) = try await Self.move(
            source, over: endpoint, options: MigrationOptions(lanes: lanes))
        #expect(sent.outcome == .completed, "\(sent.error ?? "")")
        let moved = try #require(destination)
        #expect(!source.isRunning)
        #expect(moved.isRunning)
        _ = try moved.pause()
        // What it wrote since it runs here is on top of what the source had.
        #expect(moved.counter >= source.counter)
        #expect(sent.digest != nil)
        // Some 8000, less what the guest wrote before: on a busy machine that is much.
        #expect(sent.pagesZero > 4000, "holes are sent as holes")
        #expect(received?.machine == "model")
        print(sent)
    }

    @Test func anIdleMachineArrivesBitForBit() async throws {
        let source = ModelMachine(configuration: .model(mebibytes: 32))
        source.fill(share: 0.7)
        _ = try source.resume()
        let (destination, sent, _) = try await Self.move(source, over: .tcp(host: "127.0.0.1", port: 0))
        #expect(sent.outcome == .completed, "\(sent.error ?? "")")
        #expect(try #require(destination).fingerprint() == source.fingerprint())
    }

    /// The disk changes hands once, however often the destination finds it locked at first; `ModelMachine` checks that no
    /// side runs without it.
    @Test(arguments: [0, 2]) func theDiskGoesAlong(failingLocks: Int) async throws {
        let source = ModelMachine(configuration: .model(mebibytes: 8), pagesPerSecond: 1000)
        let disk = ModelDisk(failingLocks: failingLocks)
        source.disk = disk
        try source.lockDisks()
        _ = try source.resume()
        let (destination, sent, _) = try await Self.move(source, over: .tcp(host: "127.0.0.1", port: 0))
        #expect(sent.outcome == .completed, "\(sent.error ?? "")")
        let moved = try #require(destination)
        #expect(disk.owners == [ObjectIdentifier(source), ObjectIdentifier(moved)])
        #expect(disk.owner == ObjectIdentifier(moved))
    }

    /// A disk that cannot be given up keeps the VM where it is.
    @Test func aDiskThatCannotBeReleasedStays() async throws {
        let source = ModelMachine(configuration: .model(mebibytes: 8), pagesPerSecond: 1000)
        let disk = ModelDisk(failingReleases: 1)
        source.disk = disk
        try source.lockDisks()
        _ = try source.resume()
        let (_, sent, _) = try await Self.move(source, over: .tcp(host: "127.0.0.1", port: 0))
        #expect(sent.outcome == .failed)
        #expect(sent.error?.contains("disk") == true, "\(sent.error ?? "")")
        #expect(source.isRunning)
        #expect(disk.owners == [ObjectIdentifier(source)])
    }
}

/// Runs blocking work on a thread of its own, as the engine wants it.
func onThread<R: Sendable>(_ body: @escaping @Sendable () throws -> R) async throws -> R {
    try await withCheckedThrowingContinuation { continuation in
        do {
            try PlainThread.detached(name: "test") {
                continuation.resume(with: Result { try body() })
            }
        } catch {
            continuation.resume(throwing: error)
        }
    }
}
