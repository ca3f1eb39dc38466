/// Whole migrations of real machines through the real engine: sockets, lanes, rounds, hand-over. The guest judges.

import CKVM
import Glibc
import KVM
import Logging
import Machine
import Migrate
import Synchronization
import Testing
import Units

@Suite(.enabled(if: hasKVM, noKVM), .serialized)
struct EngineTests {
    private struct Moved {
        let machine: Machine
        let report: MigrationReport
    }

    /// Moves a running machine through `endpoint`; throws what either side says against it.
    private func send(
        _ source: Machine, over endpoint: Endpoint, lanes: Int = 2, host: HostOptions = HostOptions(),
        mode: MigrationMode = .preCopy
    ) throws -> Moved {
        let listener = try Listener(endpoint)
        var quiet = Logger(label: "test")
        quiet.logLevel = .error
        let logger = quiet
        let incoming = IncomingMigration(
            listener: listener, builder: LocalMachineBuilder(host: host), options: ReceiveOptions(), logger: logger)
        // Debug builds on a busy host send slowly: the subject here is that the guest arrives whole, not how fast.
        var limits = MigrationLimits()
        limits.maxDowntime = .seconds(10)
        let outgoing = OutgoingMigration(
            machine: source, destination: listener.endpoint,
            options: MigrationOptions(mode: mode, lanes: lanes, limits: limits),
            logger: logger)
        let received = Mutex<Result<any MigratableMachine, any Error>?>(nil)
        let receiver = TestThread {
            let result = Result { try incoming.run().0 }
            received.withLock { $0 = result }
        }
        let report = outgoing.run()
        if report.outcome != .completed { incoming.cancel() }
        receiver.join()
        incoming.close(waiting: .seconds(5))
        #expect(report.outcome == .completed, "\(report.error ?? "")")
        let result = try #require(received.withLock { $0 })
        return Moved(machine: try #require(try result.get() as? Machine), report: report)
    }

    @Test(arguments: [
        (DirtyTrackerKind.bitmap, MemoryBacking.anonymous, 1, 1), (.bitmap, .anonymous, 2, 2), (.bitmap, .memfd, 1, 2),
        (.ring, .anonymous, 2, 2),
    ])
    func theGuestPasses(_ tracker: DirtyTrackerKind, _ backing: MemoryBacking, _ vcpus: Int, _ lanes: Int) throws {
        let host = HostOptions(memoryBacking: backing, dirtyTracker: tracker)
        var machine = try Machine.selftest("rate=10", vcpus: vcpus, host: host)
        _ = try machine.resume()
        #expect(machine.waitForSerial("event=ready"), "\(machine.serialText)")
        for turn in 0..<3 {
            let endpoint: Endpoint =
                turn == 1 ? .unix(path: "/tmp/migratectl-test-\(getpid()).sock") : .tcp(host: "127.0.0.1", port: 0)
            let source = machine
            let moved = try send(source, over: endpoint, lanes: lanes, host: host)
            machine = moved.machine
            #expect(!source.isRunning)
            #expect(machine.isRunning)
            #expect(machine.configuration == source.configuration)
            #expect(moved.report.digest != nil)
            print(
                "\(tracker) \(backing) \(vcpus) vCPUs: \(moved.report.rounds.count) rounds, down "
                    + "\(moved.report.downtimeMilliseconds ?? -1) ms, \(moved.report.phases)")
            source.stop()
        }
        #expect(machine.stateWarnings.isEmpty, "\(machine.stateWarnings)")
        #expect(machine.sendSerialInput(Array("q".utf8)) == 1)
        #expect(machine.waitForOutcome(timeout: .seconds(60)) == .exited(code: 0), "\(machine.serialText)")
    }

    /// The guest goes first, and its pages follow: it looks at each of them.
    @Test(arguments: [
        (MigrationMode.postCopy, MemoryBacking.anonymous, 1), (.postCopy, .anonymous, 2), (.postCopy, .memfd, 2),
        (.hybrid, .anonymous, 2),
    ])
    func theGuestGoesFirst(_ mode: MigrationMode, _ backing: MemoryBacking, _ vcpus: Int) throws {
        let host = HostOptions(memoryBacking: backing)
        var machine = try Machine.selftest("rate=50", vcpus: vcpus, host: host)
        _ = try machine.resume()
        #expect(machine.waitForSerial("event=ready"), "\(machine.serialText)")
        for _ in 0..<3 {
            let source = machine
            let moved = try send(source, over: .tcp(host: "127.0.0.1", port: 0), host: host, mode: mode)
            machine = moved.machine
            #expect(!source.isRunning)
            #expect(machine.isRunning)
            if mode == .postCopy { #expect(moved.report.paging?.pagesLeft == moved.report.pagesTotal) }
            print(
                "\(mode) \(backing) \(vcpus) vCPUs: down \(moved.report.downtimeMilliseconds ?? -1) ms, "
                    + "\(moved.report.phases), \(String(describing: moved.report.paging))")
            source.stop()
        }
        #expect(machine.stateWarnings.isEmpty, "\(machine.stateWarnings)")
        #expect(machine.sendSerialInput(Array("q".utf8)) == 1)
        #expect(machine.waitForOutcome(timeout: .seconds(60)) == .exited(code: 0), "\(machine.serialText)")
    }

    /// A receiver that cannot have the machine says why, and the source runs on, without a log.
    @Test func aRefusalLeavesTheSourceRunning() throws {
        let source = try Machine.selftest("rate=20")
        _ = try source.resume()
        #expect(source.waitForSerial("event=ready"), "\(source.serialText)")
        let listener = try Listener(.tcp(host: "127.0.0.1", port: 0))
        let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        let incoming = IncomingMigration(
            listener: listener, builder: LocalMachineBuilder(host: HostOptions(kvmPath: "/nowhere/kvm")),
            options: ReceiveOptions(), logger: logger)
        let receiver = TestThread { _ = try? incoming.run() }
        let outgoing = OutgoingMigration(
            machine: source, destination: listener.endpoint, options: MigrationOptions(), logger: logger)
        let report = outgoing.run()
        incoming.cancel()
        receiver.join()
        incoming.close(waiting: .seconds(5))
        #expect(report.outcome != .completed)
        #expect((report.error ?? "").contains("/nowhere/kvm"), "\(report.error ?? "no reason")")
        #expect(source.isRunning)
        #expect(source.sendSerialInput(Array("q".utf8)) == 1)
        #expect(source.waitForOutcome(timeout: .seconds(60)) == .exited(code: 0), "\(source.serialText)")
    }

    /// A guest that has ended is not moved, and the report says so.
    @Test func aGuestThatEndsIsNotMoved() throws {
        let source = try Machine.selftest("rate=20 seconds=1")
        _ = try source.resume()
        #expect(source.waitForSerial("event=ready"), "\(source.serialText)")
        #expect(source.waitForOutcome(timeout: .seconds(60)) == .exited(code: 0), "\(source.serialText)")
        let listener = try Listener(.tcp(host: "127.0.0.1", port: 0))
        let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        let incoming = IncomingMigration(
            listener: listener, builder: LocalMachineBuilder(), options: ReceiveOptions(), logger: logger)
        let receiver = TestThread { _ = try? incoming.run() }
        let outgoing = OutgoingMigration(
            machine: source, destination: listener.endpoint, options: MigrationOptions(), logger: logger)
        let report = outgoing.run()
        incoming.cancel()
        receiver.join()
        incoming.close(waiting: .seconds(5))
        #expect(report.outcome != .completed)
        #expect((report.error ?? "").contains("ended"), "\(report.error ?? "no reason")")
    }
}
