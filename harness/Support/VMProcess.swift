/// A process of `migratectl run` or `migratectl receive`.

import Foundation

public final class VMProcess {
    public let child: Child
    public let name: String
    /// A runtime directory of its own: source and destination share a host but not the VM's name.
    public let runtime: String
    private let program: Migratectl
    private var opened: GuestConsole?

    init(_ program: Migratectl, side: String, folder: String, arguments: [String], name: String) throws {
        self.program = program
        self.name = name
        runtime = "\(folder)/\(side)-\(monotonicNanoseconds() / 1000)"
        child = try Child(
            side, program.program, arguments, folder: folder, environment: ["MIGRATECTL_RUNTIME_DIR": runtime])
    }

    public var pid: pid_t { child.pid }

    public var control: ControlSocket { ControlSocket(path: "\(runtime)/\(name).sock") }

    /// What `migratectl status --json` prints.
    public func status() throws -> JSON { try control.request("GET", "/v1/vm") }

    /// Where a receiver listens.
    public func listening() throws -> String {
        guard let place = try status()["listening"]?.string else { throw HarnessError("\(name) does not listen") }
        return place
    }

    /// The serial line. One connection for good: each new one is told old output again.
    public func console() throws -> GuestConsole {
        if let opened { return opened }
        let console = try GuestConsole(path: "\(runtime)/\(name).console", of: child)
        opened = console
        return console
    }

    /// Starts `migratectl send`, which ends when the migration does.
    public func send(to address: String, _ arguments: [String] = [], folder: String) throws -> Child {
        try Child(
            "send", program.program, ["send", name, "--to", address, "--json"] + arguments, folder: folder,
            environment: ["MIGRATECTL_RUNTIME_DIR": runtime])
    }

    /// Lets the VM end as a person would.
    public func stop() {
        _ = try? control.request("POST", "/v1/vm/stop")
        let end = monotonicNanoseconds() + 5_000_000_000
        while child.isRunning, monotonicNanoseconds() < end, (try? pause(milliseconds: 10)) != nil {}
        child.stop()
    }

    /// What it left in its runtime directory.
    public var leftovers: [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: runtime)) ?? []).filter { !$0.hasSuffix(".report.json") }
    }
}
