/// The selftest guest over its serial line: commands of one letter, answers of lines "selftest: event=... key=value ..."
/// (docs/selftest-guest.md). The same for every VMM that boots it.

/// One line of the guest.
public struct GuestLine: Sendable {
    public let event: String
    public let values: [String: String]

    /// Nil if the guest did not print it.
    public init?(_ text: String) {
        let words = text.split(separator: " ")
        guard words.first == "selftest:" else { return nil }
        var values: [String: String] = [:]
        for word in words.dropFirst() {
            let parts = word.split(separator: "=", maxSplits: 1)
            if parts.count == 2 { values[String(parts[0])] = String(parts[1]) }
        }
        guard let event = values["event"] else { return nil }
        self.event = event
        self.values = values
    }

    public func number(_ key: String) throws -> UInt64 {
        guard let text = values[key], let number = UInt64(text) else {
            throw HarnessError("the guest's \(event) line has no number \(key)")
        }
        return number
    }
}

/// A stretch in which a vCPU did not run: its stamps (TSC) before and after.
public struct GuestGap: Sendable {
    public let from: UInt64
    public let to: UInt64
    public var ticks: UInt64 { to &- from }
}

/// What the guest says of itself.
public struct GuestReport: Sendable {
    /// Sums over all vCPUs.
    public let sum: GuestLine
    /// The largest gaps since they were last reset, of all vCPUs.
    public let gaps: [GuestGap]
    /// The heartbeat of each vCPU.
    public let sequences: [UInt64]

    /// Gathers the lines of a report, of which the last is the sum.
    public init(_ lines: [GuestLine]) throws {
        guard let sum = lines.last, sum.event == "report" else {
            throw HarnessError("the guest's report has no end")
        }
        self.sum = sum
        gaps = try lines.filter { $0.event == "gap" }.map {
            GuestGap(from: try $0.number("from"), to: try $0.number("to"))
        }
        sequences = try lines.filter { $0.event == "cpu" }.map { try $0.number("sequence") }
    }

    public var passed: Bool { sum.values["verdict"] == "pass" }

    /// Everything the guest counts as a fault, by name.
    public var faults: [String] {
        let names = ["errors", "stalls", "tsc_backward", "clock_backward", "register_failures", "heartbeat_failures"]
        return names.filter { (sum.values[$0] ?? "0") != "0" }.map { "\($0)=\(sum.values[$0] ?? "?")" }
    }

    public var largestGap: GuestGap? { gaps.max { $0.ticks < $1.ticks } }
}

/// A connection to the serial line of a running guest.
public final class GuestConsole {
    private let socket: LocalSocket
    private let name: String
    private var isFresh = true
    /// Lines about wrong pages, as they came.
    public private(set) var badLines: [String] = []

    public init(path: String, of child: Child) throws {
        name = child.name
        socket = try LocalSocket(path: path, seconds: 30, whileRunning: child)
    }

    /// The lines up to the next one with this event.
    public func lines(until event: String, seconds: Double) throws -> [GuestLine] {
        let end = monotonicNanoseconds() + UInt64(seconds * 1e9)
        var lines: [GuestLine] = []
        while true {
            let now = monotonicNanoseconds()
            guard now < end, let text = try socket.line(seconds: Double(end - now) / 1e9) else {
                throw HarnessError("the guest of \(name) did not print event=\(event) in \(Int(seconds)) s")
            }
            guard let line = GuestLine(text) else { continue }
            lines.append(line)
            switch line.event {
            case event: return lines
            case "bad": badLines.append(text)
            case "error", "fault": throw HarnessError("the guest of \(name) stopped: \(text)")
            default: break
            }
        }
    }

    /// Waits until all memory is filled and the work begins.
    public func waitUntilReady(seconds: Double) throws {
        _ = try lines(until: "ready", seconds: seconds)
    }

    /// Types a command. A console may begin with what the guest said before; that is no answer.
    private func type(_ command: String) throws {
        if isFresh {
            while try socket.line(seconds: 0.1) != nil {}
            isFresh = false
        }
        try socket.write(command)
    }

    /// Forgets the gaps.
    public func resetGaps() throws {
        try type("g")
        _ = try lines(until: "gaps-reset", seconds: 20)
    }

    public func report() throws -> GuestReport {
        try type("r")
        return try GuestReport(lines(until: "report", seconds: 20))
    }

    /// Lets the guest check all its pages; how many were wrong.
    public func verify(seconds: Double) throws -> Int {
        try type("v")
        guard let line = try lines(until: "verify", seconds: seconds).last else { return 0 }
        return Int(try line.number("bad"))
    }
}
