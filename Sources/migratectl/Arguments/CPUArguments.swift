/// Which CPU a VM gets, and the files that describe one.

import ArgumentParser
import Control
import Glibc
import Machine
import VMState

struct CPUArguments: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "The CPU that the guest gets: host, x86-64-v1 to -v4, or a file of doctor --baseline (or doctor --json); each with "
                + ",+FEATURE or ,-FEATURE. (default: host)",
            discussion: "Anything but host can move to every host that has the model's features.", valueName: "model"))
    var cpu: String?
}

/// A CPU model by its name, or from a file.
enum CPUChoice {
    /// Reads the model.
    static func model(_ cpu: String) throws -> CPUModel {
        do {
            return try CPUModel(parsing: cpu) { name in
                name.contains("/") || name.hasSuffix(".json") ? try CPUBaselineFile.read(name) : nil
            }
        } catch let error as StateError {
            throw CommandError(.usage, "\(error)")
        }
    }
}

/// A file with a CPU baseline, or with a whole report of `doctor --json`.
enum CPUBaselineFile {
    /// Reports are some tens of KiB.
    private static let limit = 4 << 20

    static func read(_ path: String) throws -> CPUBaseline {
        let bytes = try contents(of: path)
        if let baseline = try? ControlJSON.decode(CPUBaseline.self, from: bytes) { return baseline }
        guard let report = try? ControlJSON.decode(HostReport.self, from: bytes) else {
            throw CommandError(
                .usage, "\(path) is neither a report of doctor --json nor a baseline of doctor --baseline")
        }
        guard let cpu = report.cpu else {
            throw CommandError(
                .usage, "\(path) says nothing of the host's CPU: no VM can run there, or its migratectl is older")
        }
        return cpu
    }

    private static func contents(of path: String) throws -> [UInt8] {
        // Without O_NONBLOCK a pipe without a writer would be waited for.
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else {
            throw CommandError(.usage, "cannot open \(path): \(String(cString: strerror(errno)))")
        }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = Glibc.read(descriptor, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else {
                throw CommandError(.usage, "cannot read \(path): \(String(cString: strerror(errno)))")
            }
            if count == 0 { return bytes }
            bytes += buffer.prefix(count)
            guard bytes.count <= limit else { throw CommandError(.usage, "\(path) is no report: it is too long") }
        }
    }
}
