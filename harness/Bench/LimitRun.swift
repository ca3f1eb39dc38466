/// The limit as a contender: the copy loop between two processes, with the guest's load running beside it.

import Foundation
import HarnessSupport

struct LimitRun {
    var cell: Cell
    var lanes: Int
    /// MiB that the migration of the same round sent; nil when there was none.
    var paired: Int?
    var verify: Bool
    /// This program's path.
    var program: String

    /// `load` starts the guest that writes beside the loop, and gives its owner.
    func measure(into record: inout RunRecord, load: () throws -> AnyObject) throws {
        let folder = try ScratchFolder()
        let total = max(cell.memoryMiB, paired ?? 0)
        // The receiver's memory is hashed, or not, by one and the same loop.
        var common = ["--memory", "\(cell.memoryMiB)", "--total", "\((total + 1) / 2 * 2)", "--lanes", "\(lanes)"]
        if cell.transport == .unix { common += ["--path", folder.path + "/limit.sock"] }
        var receiving = ["limit-receive"] + common
        if verify { receiving.append("--verify") }
        if cell.destination == .untouched { receiving.append("--untouched") }
        let receiver = try Child("limit-receiver", program, receiving, folder: folder.path)
        let port = try firstLine(receiver)["port"]?.double.map { Int($0) } ?? 0
        let sender = try Child(
            "limit-sender", program, ["limit-send"] + common + ["--port", "\(port)"], folder: folder.path)
        _ = try firstLine(sender)

        let guest = try load()
        defer { withExtendedLifetime(guest) {} }
        try pause(milliseconds: 300)
        try sender.write("go\n")
        try sender.waitForEnd(seconds: 300)
        try receiver.waitForEnd(seconds: 60)
        let sent = try lastLine(sender)
        let received = try lastLine(receiver)

        let gibibytes = Double(cell.memoryMiB) / 1024
        record.total = Double(max(sent.finished, received.finished) - sent.started) / 1e6
        record.once = Double(received.once - sent.started) / 1e6
        record.cpuSourcePerGiB = Double(sent.cpuNanoseconds) / 1e9 / gibibytes
        record.cpuDestinationPerGiB = Double(received.cpuNanoseconds) / 1e9 / gibibytes
        record.bytesSent = Double(total << 20)
        record.wrongPages = received.wrongPages
        if received.wrongPages > 0 { throw HarnessError("the copy loop delivered \(received.wrongPages) wrong pages") }
    }

    private func firstLine(_ child: Child) throws -> JSON {
        try wait(for: "\(child.name) to be ready", seconds: 120) {
            if !child.isRunning { throw child.failure("ended early") }
            let lines = child.output.split(separator: "\n", omittingEmptySubsequences: false)
            return lines.count > 1 ? try JSON.parse(String(lines[0])) : nil
        }
    }

    private func lastLine(_ child: Child) throws -> LimitResult {
        guard let line = child.output.split(separator: "\n").last else { throw child.failure("said nothing") }
        return try JSONDecoder().decode(LimitResult.self, from: Data(line.utf8))
    }
}
