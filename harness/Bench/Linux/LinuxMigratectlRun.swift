/// A Linux guest under migratectl.

import HarnessSupport

struct LinuxMigratectlRun {
    private let program: Migratectl
    private let guest: LinuxGuest
    private let folder: ScratchFolder
    private static let name = "linux"

    init(_ program: Migratectl, _ guest: LinuxGuest) throws {
        self.program = program
        self.guest = guest
        folder = try ScratchFolder()
    }

    private func start(_ side: String, _ arguments: [String]) throws -> Child {
        try Child(
            side, program.program, arguments + ["--name", Self.name, "--serial", "socket"], folder: folder.path,
            environment: ["MIGRATECTL_RUNTIME_DIR": runtime(side)])
    }

    private func runtime(_ side: String) -> String { "\(folder.path)/\(side)" }
    private func console(_ side: String, of child: Child) throws -> LocalSocket {
        try LocalSocket(path: "\(runtime(side))/\(Self.name).console", seconds: 60, whileRunning: child)
    }

    func measure(into record: inout LinuxRecord) throws {
        let (source, _) = try guest.boot(&record) {
            let child = try start(
                "source",
                [
                    "run", "--memory", "\(guest.memoryMiB)M", "--cpus", "\(guest.vcpus)", "--kernel", guest.kernel,
                    "--initrd", guest.initrd, "--append", guest.commandLine,
                ])
            return (child, try console("source", of: child))
        }
        let destination = try start("destination", ["receive", "--listen", "127.0.0.1:0"])
        let control = ControlSocket(path: "\(runtime("destination"))/\(Self.name).sock")
        let place = try wait(for: "the receiver to listen", seconds: 60) {
            if !destination.isRunning { throw destination.failure("ended early") }
            return (try? control.request("GET", "/v1/vm"))?["listening"]?.string
        }
        try guest.noteMemory(of: source, into: &record)

        let begun = monotonicNanoseconds()
        let send = try Child(
            "send", program.program, ["send", Self.name, "--to", place, "--json"], folder: folder.path,
            environment: ["MIGRATECTL_RUNTIME_DIR": runtime("source")])
        try send.waitForEnd(seconds: 300)
        record.total = Double(monotonicNanoseconds() - begun) / 1e6
        let figures = try MigrationFigures(send.output)
        record.downtime = figures.downtimeMilliseconds
        record.sentMiB = figures.pagesWithContents.map { $0 / 256 }
        try guest.check(console("destination", of: destination), of: destination)
        destination.stop()
    }
}
