/// One migration by migratectl, between two processes that have nothing in common but the connection.

import Foundation
import Glibc
import HarnessSupport

/// The built program.
struct MigratectlSetup {
    var program: Migratectl
    /// When the benchmark began.
    var clock: TSCSample
}

extension VMOptions {
    init(_ cell: Cell) {
        self.init(memoryMiB: cell.memoryMiB, vcpus: cell.vcpus, guestOptions: GuestOptions(cell).words)
    }
}

/// A VM that only writes: the load beside the copy loop.
final class LoadGuest {
    private let folder: ScratchFolder
    private let vm: VMProcess

    init(_ setup: MigratectlSetup, _ cell: Cell) throws {
        folder = try ScratchFolder()
        vm = try setup.program.run("load", VMOptions(cell), folder: folder.path)
    }

    deinit {
        vm.stop()
    }
}

struct MigratectlRun {
    private let setup: MigratectlSetup
    private let cell: Cell
    private let lanes: Int
    private let folder: ScratchFolder
    /// The names of the threads that run the guest.
    private let guestThreads = ["vcpu"]

    init(_ setup: MigratectlSetup, _ cell: Cell, lanes: Int) throws {
        self.setup = setup
        self.cell = cell
        self.lanes = lanes
        folder = try ScratchFolder()
    }

    func measure(into record: inout RunRecord) throws {
        let options = VMOptions(cell)
        let source = try setup.program.run("bench", options, folder: folder.path)
        let destination = try setup.program.receive(
            "bench", options, transport: cell.transport.rawValue, preallocate: cell.destination == .touched,
            folder: folder.path)
        let address = try destination.listening()
        record.noise = try quietGap(try source.console(), setup.clock)

        guard let sourceBefore = ProcessorTime(of: source.pid, guestThreads: guestThreads),
            let destinationBefore = ProcessorTime(of: destination.pid, guestThreads: guestThreads)
        else { throw HarnessError("a side ended early") }
        var arguments = ["--lanes", "\(lanes)"]
        if let limit = cell.downtimeLimitMilliseconds { arguments += ["--max-downtime", "\(limit)ms"] }
        let start = monotonicNanoseconds()
        let send = try source.send(to: address, arguments, folder: folder.path)
        // The source ends with the migration and takes its threads' accounts with it: its guest's CPU is the last seen.
        var guestTime = sourceBefore.guest
        var sourceStatus: Int32?
        let status = try wait(for: "migratectl send to end", seconds: 300, every: 4) {
            if let now = ProcessorTime(of: source.pid, guestThreads: guestThreads) {
                guestTime = max(guestTime, now.guest)
            }
            sourceStatus = source.child.exitStatus()
            return send.exitStatus()
        }
        let end = monotonicNanoseconds()
        guard status == 0 else { throw send.failure("ended with status \(status)") }
        guard let destinationAfter = ProcessorTime(of: destination.pid, guestThreads: guestThreads) else {
            throw destination.child.failure("ended")
        }
        if sourceStatus == nil { try source.child.waitForEnd(seconds: 20, expecting: [MigrationFigures.movedStatus]) }
        guard let sourceAll = source.child.cpuNanosecondsAtEnd, let sendAll = send.cpuNanosecondsAtEnd else {
            throw HarnessError("no CPU times of ended processes")
        }

        let gibibytes = Double(cell.memoryMiB) / 1024
        let sourceTime = Double(sourceAll) - Double(sourceBefore.all) - Double(guestTime - sourceBefore.guest)
        record.total = Double(end - start) / 1e6
        record.cpuSourcePerGiB = sourceTime / 1e9 / gibibytes
        record.cpuDestinationPerGiB = Double(destinationAfter.overhead - destinationBefore.overhead) / 1e9 / gibibytes
        record.cpuHelpersPerGiB = Double(sendAll) / 1e9 / gibibytes
        let figures = try MigrationFigures(send.output)
        guard figures.digest != nil else { throw HarnessError("the digest was not agreed: \(send.output)") }
        record.reportedTotal = figures.totalMilliseconds
        record.reportedDowntime = figures.downtimeMilliseconds
        record.bytesSent = figures.bytesSent
        record.rounds = figures.rounds
        record.downtimePhases = figures.phases
        record.fixedDowntime = figures.fixedMilliseconds
        let window = figures.stoppedAtNanoseconds.map {
            SwitchWindow(stopped: $0, resumed: $0 + figures.downtimeMilliseconds * 1e6)
        }
        try judgeGuest(try destination.console(), setup.clock, since: start, window: window, into: &record)
        if let faults = record.otherFaults {
            throw HarnessError("the guest's verdict: \(faults.joined(separator: " "))")
        }
        destination.stop()
    }
}
