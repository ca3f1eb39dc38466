/// One migration by QEMU, with the same guest: two processes, driven over QMP.

import Foundation
import HarnessSupport

/// Where QEMU is, and what every run shares.
struct QemuSetup {
    var program: String
    /// The guest's ELF image.
    var kernel: String
    /// When the benchmark began.
    var clock: TSCSample

    /// The program's version, as it says.
    func version(folder: String) throws -> String {
        let child = try Child("qemu-version", program, ["--version"], folder: folder)
        try child.waitForEnd(seconds: 20)
        return child.output.split(separator: "\n").first.map(String.init) ?? "unknown"
    }
}

/// Both sides of one migration; everything ends with it.
final class QemuRun {
    private let setup: QemuSetup
    private let cell: Cell
    private let channels: Int
    private let folder: ScratchFolder

    init(_ setup: QemuSetup, _ cell: Cell, channels: Int) throws {
        self.setup = setup
        self.cell = cell
        self.channels = channels
        folder = try ScratchFolder()
    }

    private func start(_ side: String, incoming: Bool) throws -> Child {
        // A name for the threads, so that the guest's own CPU can be told from the migration's.
        var arguments = ["-name", "bench,debug-threads=on", "-accel", "kvm", "-cpu", cpuModel]
        let preallocate = incoming && cell.destination == .untouched ? "off" : "on"
        arguments += ["-m", "\(cell.memoryMiB)", "-smp", "\(cell.vcpus)", "-M", "q35,memory-backend=ram"]
        arguments += ["-object", "memory-backend-ram,id=ram,size=\(cell.memoryMiB)M,prealloc=\(preallocate)"]
        arguments += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        arguments += ["-kernel", setup.kernel, "-append", commandLine]
        arguments += ["-device", "isa-debug-exit,iobase=0x501,iosize=2"]
        arguments += ["-qmp", "unix:\(folder.path)/\(side).qmp,server=on,wait=off"]
        arguments += ["-chardev", "socket,id=console,path=\(folder.path)/\(side).console,server=on,wait=off"]
        arguments += ["-serial", "chardev:console"]
        if incoming { arguments += ["-incoming", "defer"] }
        return try Child("qemu-\(side)", setup.program, arguments, folder: folder.path)
    }

    /// kvm_pvm refuses one MSR that QEMU 7.2 sets for `-cpu host`.
    private var cpuModel: String { isPVM ? "host,-arch-capabilities" : "host" }

    /// Under kvm_pvm QEMU 7.2 forgets half of the AVX registers; what is measured here does not depend on them.
    private var commandLine: String { GuestOptions(cell).words + (isPVM ? " vector=sse" : "") }

    private var isPVM: Bool { FileManager.default.fileExists(atPath: "/sys/module/kvm_pvm") }

    private func configure(_ qmp: Qmp) throws {
        var capabilities: [JSON] = [.object(["capability": .string("events"), "state": .bool(true)])]
        var parameters: [String: JSON] = ["max-bandwidth": .number(Double(1 << 40))]
        if let limit = cell.downtimeLimitMilliseconds { parameters["downtime-limit"] = .number(limit) }
        if channels > 0 {
            capabilities.append(.object(["capability": .string("multifd"), "state": .bool(true)]))
            parameters["multifd-channels"] = .number(Double(channels))
        }
        try qmp.execute("migrate-set-capabilities", ["capabilities": .array(capabilities)])
        try qmp.execute("migrate-set-parameters", parameters)
    }

    /// Lets the destination listen, and says where.
    private func listen(_ qmp: Qmp) throws -> String {
        let path = "\(folder.path)/migration.sock"
        let place = cell.transport == .tcp ? "tcp:127.0.0.1:0" : "unix:\(path)"
        try qmp.execute("migrate-incoming", ["uri": .string(place)])
        if cell.transport == .unix { return place }
        let status = try qmp.execute("query-migrate")
        guard let port = status["socket-address"]?.array?.first?["port"]?.string else {
            throw HarnessError("QEMU does not say on which port it listens: \(status.text)")
        }
        return "tcp:127.0.0.1:\(port)"
    }

    func measure(into record: inout RunRecord) throws {
        let source = try start("source", incoming: false)
        let sourceConsole = try GuestConsole(path: "\(folder.path)/source.console", of: source)
        let sourceControl = try Qmp(path: "\(folder.path)/source.qmp", of: source)
        try sourceConsole.waitUntilReady(seconds: 120)
        let destination = try start("destination", incoming: true)
        let destinationControl = try Qmp(path: "\(folder.path)/destination.qmp", of: destination)
        let destinationConsole = try GuestConsole(path: "\(folder.path)/destination.console", of: destination)
        try configure(sourceControl)
        try configure(destinationControl)
        let place = try listen(destinationControl)

        record.noise = try quietGap(sourceConsole, setup.clock)

        let threads = ["CPU "]
        guard let sourceBefore = ProcessorTime(of: source.pid, guestThreads: threads),
            let destinationBefore = ProcessorTime(of: destination.pid, guestThreads: threads)
        else { throw HarnessError("QEMU ended early") }
        let start = monotonicNanoseconds()
        let clockDifference = Double(realtimeNanoseconds()) - Double(monotonicNanoseconds())
        try sourceControl.execute("migrate", ["uri": .string(place)])
        let stopEvent = try sourceControl.event("STOP", seconds: 300) { $0["event"]?.string == "STOP" }
        let resumeEvent = try destinationControl.event("RESUME", seconds: 300) { $0["event"]?.string == "RESUME" }
        _ = try sourceControl.event("the end of the migration", seconds: 60) { event in
            guard event["event"]?.string == "MIGRATION", let status = event["data"]?["status"]?.string else {
                return false
            }
            if status == "failed" || status == "cancelled" { throw source.failure("migration \(status)") }
            return status == "completed"
        }
        let end = monotonicNanoseconds()
        guard let sourceAfter = ProcessorTime(of: source.pid, guestThreads: threads),
            let destinationAfter = ProcessorTime(of: destination.pid, guestThreads: threads)
        else { throw HarnessError("QEMU ended early") }

        let gibibytes = Double(cell.memoryMiB) / 1024
        record.total = Double(end - start) / 1e6
        record.cpuSourcePerGiB = Double(sourceAfter.overhead - sourceBefore.overhead) / 1e9 / gibibytes
        record.cpuDestinationPerGiB = Double(destinationAfter.overhead - destinationBefore.overhead) / 1e9 / gibibytes
        let status = try sourceControl.execute("query-migrate")
        record.reportedTotal = status["total-time"]?.double
        record.reportedDowntime = status["downtime"]?.double
        record.bytesSent = status["ram"]?["transferred"]?.double
        record.rounds = status["ram"]?["dirty-sync-count"]?.double.map { Int($0) }
        let window = SwitchWindow(
            stopped: try eventTime(stopEvent) - clockDifference, resumed: try eventTime(resumeEvent) - clockDifference)
        try judgeGuest(destinationConsole, setup.clock, since: start, window: window, into: &record)
        _ = try? sourceControl.execute("quit")
        _ = try? destinationControl.execute("quit")
    }

    /// CLOCK_REALTIME nanoseconds of an event.
    private func eventTime(_ event: JSON) throws -> Double {
        guard let seconds = event["timestamp"]?["seconds"]?.double,
            let microseconds = event["timestamp"]?["microseconds"]?.double
        else { throw HarnessError("QEMU's event has no time: \(event.text)") }
        return seconds * 1e9 + microseconds * 1e3
    }
}
