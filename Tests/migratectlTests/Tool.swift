import Foundation
import Synchronization

/// The built program, and a private place for it to run in.
final class Tool {
    struct Result {
        var status: Int32
        var output: String
        var errors: String

        func json() throws -> [String: Any] {
            try JSONSerialization.jsonObject(with: Data(output.utf8)) as? [String: Any] ?? [:]
        }
    }

    /// A process that is under way. It is killed when the test drops it.
    final class Running {
        let process: Process
        /// Its files live as long as somebody wants to read them.
        private let tool: Tool
        private let output: URL
        private let errors: URL

        init(_ process: Process, _ tool: Tool, _ output: URL, _ errors: URL) {
            self.process = process
            self.tool = tool
            self.output = output
            self.errors = errors
        }

        deinit { if process.isRunning { kill(process.processIdentifier, SIGKILL) } }

        func signal(_ number: Int32) { kill(process.processIdentifier, number) }

        var outputSoFar: String { (try? String(contentsOf: output, encoding: .utf8)) ?? "" }
        var errorsSoFar: String { (try? String(contentsOf: errors, encoding: .utf8)) ?? "" }

        /// Waits for the end; one that hangs is killed, and then its status is -1.
        func wait(_ seconds: Double = 30) -> Result {
            let end = Date(timeIntervalSinceNow: seconds)
            while process.isRunning, Date() < end { usleep(10_000) }
            let isLate = process.isRunning
            if isLate { kill(process.processIdentifier, SIGKILL) }
            process.waitUntilExit()
            let status = process.terminationReason == .exit ? process.terminationStatus : -process.terminationStatus
            return Result(status: isLate ? -1 : status, output: outputSoFar, errors: errorsSoFar)
        }
    }

    let directory: String
    var runtimeDirectory: String { directory + "/r" }
    private var count = 0

    init() throws {
        // Short: socket paths have 107 bytes.
        directory = "/tmp/mcc-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: false)
    }

    deinit { try? FileManager.default.removeItem(atPath: directory) }

    /// The program lies beside the test bundle.
    static let path = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
        .appending(path: "migratectl").path

    func start(_ first: String, _ more: String..., input: FileHandle? = nil) throws -> Running {
        try start([first] + more, input: input)
    }

    func start(_ arguments: [String], input: FileHandle? = nil) throws -> Running {
        count += 1
        let process = Process()
        process.executableURL = URL(filePath: Self.path)
        process.arguments = arguments
        var environment = ProcessInfo.processInfo.environment
        environment["MIGRATECTL_RUNTIME_DIR"] = runtimeDirectory
        process.environment = environment
        let output = URL(filePath: "\(directory)/\(count).out")
        let errors = URL(filePath: "\(directory)/\(count).err")
        for file in [output, errors] { try Data().write(to: file) }
        process.standardOutput = try FileHandle(forWritingTo: output)
        process.standardError = try FileHandle(forWritingTo: errors)
        process.standardInput = input ?? FileHandle.nullDevice
        try process.run()
        return Running(process, self, output, errors)
    }

    func run(_ arguments: String...) throws -> Result { try start(arguments, input: nil).wait() }

    /// Starts a VM and waits until it runs.
    func startVM(_ name: String, _ more: String...) throws -> Running {
        let running = try start(["run", "--name", name, "--memory", "64M"] + more)
        guard waitFor({ (try? run("status", name, "--json").json()["state"] as? String) == "running" }) else {
            throw Failure("\(name) does not run: \(running.errorsSoFar)")
        }
        return running
    }

    /// Starts a receiver and waits until it listens.
    /// - Returns: the receiver and its address.
    func startReceiver(_ more: String...) throws -> (Running, String) {
        let running = try start(["receive", "--listen", "0", "--json"] + more)
        var address: String?
        _ = waitFor {
            let line = running.outputSoFar.split(separator: "\n").first.map { Data($0.utf8) } ?? Data()
            address = (try? JSONSerialization.jsonObject(with: line) as? [String: Any])?["listening"] as? String
            return address != nil || !running.process.isRunning
        }
        guard let address else { throw Failure("the receiver does not listen: \(running.errorsSoFar)") }
        return (running, address)
    }

    func waitFor(seconds: Double = 20, _ condition: () throws -> Bool) rethrows -> Bool {
        let end = Date(timeIntervalSinceNow: seconds)
        while Date() < end {
            if try condition() { return true }
            usleep(50_000)
        }
        return false
    }

    struct Failure: Error, CustomStringConvertible {
        var description: String
        init(_ description: String) { self.description = description }
    }
}

/// The exit codes by their names, from the document that promises them.
enum ExitCode {
    static let documented: [String: Int32] = {
        let file = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../docs/cli.md")
        var codes: [String: Int32] = [:]
        for line in ((try? String(contentsOf: file, encoding: .utf8)) ?? "").split(separator: "\n") {
            let cells = line.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
            if cells.count == 3, let code = Int32(cells[0]) { codes[cells[1]] = code }
        }
        return codes
    }()

    static func named(_ name: String) -> Int32 { documented[name] ?? -99 }
}

/// Tests with VMs need KVM. They are skipped where it is missing, and say so.
let hasKVM: Bool = {
    let descriptor = open("/dev/kvm", O_RDWR | O_CLOEXEC)
    guard descriptor >= 0 else {
        FileHandle.standardError.write(
            Data("SKIPPED: tests of the command with VMs, as /dev/kvm cannot be opened\n".utf8))
        return false
    }
    close(descriptor)
    return true
}()
