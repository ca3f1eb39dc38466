/// A process that the harness started. It is ended by id, gently and then for good, when its owner lets go of it, and
/// by the kernel if the harness itself dies.

import CHarness
import Foundation
import Glibc

public final class Child {
    public let name: String
    public let pid: pid_t
    private let outputFile: String
    private let errorFile: String
    private let input: Int32
    private var status: Int32?
    /// CPU of the whole process, known once it has ended.
    public private(set) var cpuNanosecondsAtEnd: UInt64?

    /// Starts a program (a path) with its output in files of `folder`, and with `environment` added to ours. Only on
    /// the main thread (see `harness_spawn`).
    public init(
        _ name: String, _ path: String, _ arguments: [String], folder: String, environment: [String: String] = [:]
    ) throws {
        self.name = name
        let unique = "\(folder)/\(name).\(monotonicNanoseconds())"
        outputFile = unique + ".out"
        errorFile = unique + ".err"
        let output = open(outputFile, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        let error = open(errorFile, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        var ends: [Int32] = [-1, -1]
        guard output >= 0, error >= 0, pipe(&ends) == 0 else {
            throw HarnessError("cannot open files in \(folder) for \(name): \(String(cString: strerror(errno)))")
        }
        var strings: [UnsafeMutablePointer<CChar>?] = ([path] + arguments).map { strdup($0) }
        strings.append(nil)
        let merged = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        var variables: [UnsafeMutablePointer<CChar>?] = merged.map { strdup("\($0)=\($1)") }
        variables.append(nil)
        pid = harness_spawn(path, &strings, &variables, ends[0], output, error)
        for string in strings + variables {
            free(string)
        }
        close(output)
        close(error)
        close(ends[0])
        input = ends[1]
        if pid < 0 {
            throw HarnessError("cannot start \(path): \(String(cString: strerror(-pid)))")
        }
    }

    deinit {
        stop()
        close(input)
        unlink(outputFile)
        unlink(errorFile)
    }

    public var output: String { text(of: outputFile) }
    public var error: String { text(of: errorFile) }

    private func text(of file: String) -> String {
        (FileManager.default.contents(atPath: file)).map { String(decoding: $0, as: UTF8.self) } ?? ""
    }

    /// Writes to the program's standard input.
    public func write(_ text: String) throws {
        let bytes = Array(text.utf8)
        guard Glibc.write(input, bytes, bytes.count) == bytes.count else {
            throw HarnessError("\(name) does not read its input")
        }
    }

    /// The exit status, or nil while it runs; a signal's number is negative.
    public func exitStatus() -> Int32? {
        if let status { return status }
        var raw: Int32 = 0
        var usage = rusage()
        guard wait4(pid, &raw, WNOHANG, &usage) == pid else { return nil }
        note(raw, usage)
        return status
    }

    private func note(_ raw: Int32, _ usage: rusage) {
        let signal = raw & 0x7f
        status = signal == 0 ? (raw >> 8) & 0xff : -signal
        let seconds = UInt64(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
        let microseconds = UInt64(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec)
        cpuNanosecondsAtEnd = seconds * 1_000_000_000 + microseconds * 1000
    }

    public var isRunning: Bool { exitStatus() == nil }

    /// Waits for the end, and throws with the program's own words unless the status is one of `expected`.
    @discardableResult
    public func waitForEnd(seconds: Double, expecting expected: Set<Int32> = [0], every: Int = 2) throws -> Int32 {
        let status = try wait(for: "\(name) to end", seconds: seconds, every: every) { exitStatus() }
        if !expected.contains(status) {
            throw failure("ended with status \(status)")
        }
        return status
    }

    /// An error with the last lines that the program said, or printed if it said nothing.
    public func failure(_ what: String) -> HarnessError {
        let text = error.isEmpty ? output : error
        let lines = text.split(separator: "\n").suffix(4).map { $0.prefix(400) }.joined(separator: " | ")
        return HarnessError("\(name) (process \(pid)) \(what): \(lines)")
    }

    /// Ends the process: SIGTERM, and after `seconds` SIGKILL.
    public func stop(seconds: Double = 5) {
        if exitStatus() != nil { return }
        kill(pid, SIGTERM)
        let end = monotonicNanoseconds() + UInt64(seconds * 1e9)
        while exitStatus() == nil, monotonicNanoseconds() < end {
            usleep(2000)
        }
        kill9()
    }

    /// Ends the process at once.
    public func kill9() {
        if exitStatus() != nil { return }
        kill(pid, SIGKILL)
        var raw: Int32 = 0
        var usage = rusage()
        while wait4(pid, &raw, 0, &usage) < 0, errno == EINTR {}
        note(raw, usage)
    }
}
