/// Whole migrations under attack, and what must hold whatever happens.

import Glibc
import Logging
import Migrate
import Synchronization
import Testing
import Units

/// Keeps what was logged.
final class LogBook: Sendable {
    private let lines = Mutex<[String]>([])

    func add(_ line: String) { lines.withLock { $0.append(line) } }
    var text: String { lines.withLock { $0.joined(separator: "\n") } }

    var logger: Logger { Logger(label: "hostile") { _ in Handler(book: self) } }

    private struct Handler: LogHandler {
        let book: LogBook
        var metadata: Logger.Metadata = [:]
        var logLevel: Logger.Level = .debug

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) { book.add("\(event.message)") }
    }
}

/// A receiver at work, on threads of its own.
final class Receiving: Sendable {
    let endpoint: Endpoint
    let incoming: IncomingMigration
    let log = LogBook()
    private let box = MachineBox()
    private let ended = Mutex<Result<ReceiveReport, any Error>?>(nil)
    private let thread = Mutex<PlainThread?>(nil)

    init(
        endpoint: Endpoint = .tcp(host: "127.0.0.1", port: 0), options: ReceiveOptions = Hostile.receiveOptions,
        refusal: Refusal? = nil, builder: ModelBuilder? = nil
    ) throws {
        let listener = try Listener(endpoint)
        self.endpoint = listener.endpoint
        var made = builder ?? ModelBuilder(refusal: refusal)
        made.onBuilt = { [box] in box.add($0) }
        incoming = IncomingMigration(
            listener: listener, builder: made,
            options: options,
            logger: log.logger)
        let migration = incoming
        let started = try PlainThread(name: "receiver") { [self] in
            let result = Result { try migration.run().1 }
            ended.withLock { $0 = result }
        }
        thread.withLock { $0 = started }
    }

    final class MachineBox: Sendable {
        private let machines = Mutex<[ModelMachine]>([])
        func add(_ machine: ModelMachine) { machines.withLock { $0.append(machine) } }
        var last: ModelMachine? { machines.withLock { $0.last } }
    }

    /// The VM that was built, if one was.
    var machine: ModelMachine? { box.last }
    var result: Result<ReceiveReport, any Error>? { ended.withLock { $0 } }

    /// Ends it whatever it does: in doubt, a person says that the source has the VM.
    func end() {
        let deadline = MonotonicInstant.now + .seconds(30)
        while result == nil, MonotonicInstant.now < deadline {
            if !incoming.cancel() { _ = incoming.resolve(.dropHere(copyMayBeLost: true)) }
            usleep(10_000)
        }
        check(result != nil, "the receiver does not end:\n\(log.text)")
        incoming.close(waiting: .seconds(5))
        thread.withLock { thread in
            defer { thread = nil }
            return thread
        }?.join()
    }
}

enum Hostile {
    /// Short, so that tests are; long enough for a busy machine.
    static let timeouts = HandOverTimeouts(
        heartbeat: .milliseconds(100), silence: .milliseconds(1500), doubt: .seconds(3), abandon: .seconds(4))
    static let receiveOptions = ReceiveOptions(timeouts: timeouts, handshakeTimeout: .seconds(2))

    static func source(mebibytes: UInt64 = 6, share: Double = 0.05) throws -> ModelMachine {
        let machine = ModelMachine(configuration: .model(mebibytes: mebibytes))
        machine.fill(share: share)
        _ = try machine.resume()
        return machine
    }

    /// What an attacked migration came to.
    struct Ending: Sendable {
        var report: MigrationReport
        var source: ModelMachine
        var destination: ModelMachine?
        var received: Bool
        var log: String
    }

    /// Moves a small idle machine through a proxy.
    static func move(
        lanes: Int = 2, machine: ModelMachine? = nil, mangling: @escaping @Sendable (Flow) -> (any Mangler)?
    ) throws -> Ending {
        let source = try machine ?? source()
        let receiving = try Receiving()
        let proxy = try HostileProxy(to: receiving.endpoint, mangling)
        let outgoing = OutgoingMigration(
            machine: source, destination: proxy.endpoint, options: MigrationOptions(lanes: lanes, timeouts: timeouts),
            logger: receiving.log.logger)
        let report = outgoing.run()
        if report.outcome != .completed { receiving.end() } else { receiving.incoming.close(waiting: .seconds(5)) }
        proxy.close()
        let received = if case .success? = receiving.result { true } else { false }
        if received { receiving.end() }
        return Ending(
            report: report, source: source, destination: receiving.machine, received: received, log: receiving.log.text)
    }

    /// One side runs, and if it is the destination, with the memory that the source had.
    static func verify(_ ending: Ending, _ what: String, sourceLocation: SourceLocation = #_sourceLocation) {
        let there = ending.destination?.isRunning ?? false
        check(
            ending.source.isRunning != there, "\(what): runs here \(ending.source.isRunning), there \(there)",
            sourceLocation: sourceLocation)
        check(
            (ending.report.outcome == .completed) == there, "\(what): \(ending.report.outcome)",
            sourceLocation: sourceLocation)
        if there {
            check(
                ending.source.fingerprint() == ending.destination?.fingerprint(), "\(what): the memory is wrong",
                sourceLocation: sourceLocation)
        } else {
            let why = ending.report.error ?? ""
            check(!why.isEmpty && !why.contains("\n"), "\(what): \(why)", sourceLocation: sourceLocation)
        }
    }
}
