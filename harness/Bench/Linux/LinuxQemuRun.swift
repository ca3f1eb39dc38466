/// A Linux guest under QEMU, with as few devices as ours has.

import HarnessSupport

struct LinuxQemuRun {
    private let program: String
    private let guest: LinuxGuest
    private let isMicroVM: Bool
    private let folder: ScratchFolder

    init(_ program: String, _ guest: LinuxGuest, isMicroVM: Bool) throws {
        self.program = program
        self.guest = guest
        self.isMicroVM = isMicroVM
        folder = try ScratchFolder()
    }

    private func start(_ side: String) throws -> (Child, LocalSocket) {
        var arguments = ["-accel", "kvm", "-cpu", "host", "-m", "\(guest.memoryMiB)", "-smp", "\(guest.vcpus)"]
        arguments += ["-M", isMicroVM ? "microvm,auto-kernel-cmdline=off" : "q35"]
        arguments += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        arguments += ["-kernel", guest.kernel, "-initrd", guest.initrd, "-append", guest.commandLine]
        arguments += ["-qmp", "unix:\(folder.path)/\(side).qmp,server=on,wait=off"]
        arguments += ["-chardev", "socket,id=console,path=\(folder.path)/\(side).console,server=on,wait=off"]
        arguments += ["-serial", "chardev:console"]
        if side == "destination" { arguments += ["-incoming", "defer"] }
        let child = try Child("qemu-\(side)", program, arguments, folder: folder.path)
        return (child, try LocalSocket(path: "\(folder.path)/\(side).console", seconds: 60, whileRunning: child))
    }

    func measure(into record: inout LinuxRecord) throws {
        let (source, _) = try guest.boot(&record) { try start("source") }
        try guest.noteMemory(of: source, into: &record)
        if isMicroVM { return }
        let sourceControl = try Qmp(path: "\(folder.path)/source.qmp", of: source)
        let (destination, console) = try start("destination")
        let destinationControl = try Qmp(path: "\(folder.path)/destination.qmp", of: destination)
        for control in [sourceControl, destinationControl] {
            try control.execute(
                "migrate-set-capabilities",
                ["capabilities": .array([.object(["capability": .string("events"), "state": .bool(true)])])])
            try control.execute("migrate-set-parameters", ["max-bandwidth": .number(Double(1 << 40))])
        }
        try destinationControl.execute("migrate-incoming", ["uri": .string("tcp:127.0.0.1:0")])
        let listening = try destinationControl.execute("query-migrate")
        guard let port = listening["socket-address"]?.array?.first?["port"]?.string else {
            throw HarnessError("QEMU does not say on which port it listens: \(listening.text)")
        }

        let begun = monotonicNanoseconds()
        try sourceControl.execute("migrate", ["uri": .string("tcp:127.0.0.1:\(port)")])
        _ = try sourceControl.event("the end of the migration", seconds: 300) { event in
            guard event["event"]?.string == "MIGRATION", let status = event["data"]?["status"]?.string else {
                return false
            }
            if status == "failed" || status == "cancelled" { throw source.failure("migration \(status)") }
            return status == "completed"
        }
        record.total = Double(monotonicNanoseconds() - begun) / 1e6
        let status = try sourceControl.execute("query-migrate")
        record.downtime = status["downtime"]?.double
        record.sentMiB = status["ram"]?["transferred"]?.double.map { $0 / Double(1 << 20) }
        try guest.check(console, of: destination)
    }
}
