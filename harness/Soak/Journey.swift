/// The VM's way through many processes, and what must be true at each stop.

import Foundation
import HarnessSupport

struct Journey {
    private let program: Migratectl
    private let options: VMOptions
    private let folder: ScratchFolder
    private let soak: Soak
    private var vm: VMProcess
    private var console: GuestConsole
    /// The heartbeat of each vCPU when it was last heard.
    private var sequences: [UInt64] = []
    /// What the first processes of the journey used after arrival: nobody after them may use more.
    private var arrivals: [ProcessResources] = []
    private var downtimes: [Double] = []
    private var cancelled = 0
    private let begun = monotonicNanoseconds()
    private(set) var current: Int

    init(_ program: Migratectl, _ options: VMOptions, folder: ScratchFolder, soak: Soak) throws {
        self.program = program
        self.options = options
        self.folder = folder
        self.soak = soak
        current = soak.resumeAt
        vm = try program.run("soak", options, folder: folder.path)
        console = try vm.console()
        sequences = try console.report().sequences
    }

    mutating func hop(_ number: Int) throws {
        current = number
        // All choices of a hop come from the seed and its number, so that a run can be resumed anywhere.
        var random = SplitMix(state: soak.seed &* 0x9e37_79b9 &+ UInt64(number))
        let lanes = soak.lanes[number % soak.lanes.count]
        let transport = soak.transport[number / soak.lanes.count % soak.transport.count]
        if soak.cancelEvery > 0, number % soak.cancelEvery == 0 {
            try cancelledAttempt(lanes, transport, milliseconds: Int.random(in: 0...400, using: &random))
        }
        // The guest works for a while where it is.
        try pause(milliseconds: Int.random(in: 0...200, using: &random))

        let receiver = try program.receive("soak", options, transport: transport, folder: folder.path)
        let send = try vm.send(to: receiver.listening(), ["--lanes", "\(lanes)"], folder: folder.path)
        try send.waitForEnd(seconds: 120, every: 5)
        let report = try MigrationFigures(send.output)
        guard report.digest != nil else { throw HarnessError("the digest was not agreed: \(send.output)") }
        downtimes.append(report.downtimeMilliseconds)
        try sourceIsGone()
        vm = receiver
        console = try vm.console()
        try guestIsWell(verify: number % soak.verifyEvery == 0 || number == soak.count)
        try nothingLeaked()
        progress(number, report, lanes, transport)
    }

    mutating func finish() throws {
        vm.stop()
        guard vm.leftovers.isEmpty else {
            throw HarnessError("left behind in the runtime directory: \(vm.leftovers.joined(separator: " "))")
        }
        let seconds = Double(monotonicNanoseconds() - begun) / 1e9
        let sorted = downtimes.sorted()
        print(
            "\(downtimes.count) migrations and \(cancelled) cancelled attempts in \(Int(seconds)) s: no wrong page, no lost "
                + "heartbeat, nothing leaked; downtime median \(milliseconds(sorted[sorted.count / 2])), "
                + "largest \(milliseconds(sorted[sorted.count - 1])) ms")
    }

    /// The process that gave its VM away ends by itself and leaves nothing.
    private func sourceIsGone() throws {
        try vm.child.waitForEnd(seconds: 20, expecting: [MigrationFigures.movedStatus], every: 5)
        guard vm.leftovers.isEmpty else {
            throw HarnessError("the source left behind: \(vm.leftovers.joined(separator: " "))")
        }
    }

    private mutating func guestIsWell(verify: Bool) throws {
        let report = try console.report()
        guard report.passed else { throw HarnessError("the guest's verdict: \(report.faults.joined(separator: " "))") }
        guard report.sequences.count == soak.vcpus else {
            throw HarnessError("\(report.sequences.count) vCPUs report, not \(soak.vcpus)")
        }
        for (index, (before, after)) in zip(sequences, report.sequences).enumerated() where after <= before {
            throw HarnessError("vCPU \(index)'s heartbeat went from \(before) to \(after)")
        }
        sequences = report.sequences
        if verify {
            let wrong = try console.verify(seconds: 60)
            guard wrong == 0 else {
                throw HarnessError("\(wrong) wrong pages: \(console.badLines.prefix(3).joined(separator: " | "))")
            }
        }
    }

    /// A process that has received a VM looks like all before it.
    private mutating func nothingLeaked() throws {
        let now = try settled(vm.pid)
        if arrivals.count < 4 {
            arrivals.append(now)
            return
        }
        try compare(now, to: arrivals, "a process that received its VM")
    }

    /// Resources once the threads of the migration have ended.
    private func settled(_ pid: pid_t) throws -> ProcessResources {
        var last = try ProcessResources(of: pid)
        for _ in 0..<50 {
            try pause(milliseconds: 20)
            let now = try ProcessResources(of: pid)
            if now.descriptors == last.descriptors, now.threads == last.threads, now.mappings == last.mappings {
                return now
            }
            last = now
        }
        return last
    }

    private func compare(_ now: ProcessResources, to before: [ProcessResources], _ who: String) throws {
        let descriptors = before.map(\.descriptors).max() ?? 0
        let threads = before.map(\.threads).max() ?? 0
        let mappings = before.map(\.mappings).max() ?? 0
        // The allocator may map an arena or split a mapping of its own; a leak does so with each hop.
        let slack = 8
        if now.descriptors > descriptors || now.threads > threads || now.mappings > mappings + slack {
            throw HarnessError(
                "\(who) uses more than before: descriptors \(now.descriptors) (\(descriptors)), threads \(now.threads) "
                    + "(\(threads)), mappings \(now.mappings) (\(mappings))")
        }
    }

    /// An attempt that is cancelled: the source goes on and is as it was, the receiver ends.
    private mutating func cancelledAttempt(_ lanes: Int, _ transport: String, milliseconds: Int) throws {
        let before = try settled(vm.pid)
        let receiver = try program.receive("soak", options, transport: transport, folder: folder.path)
        // Slow enough that it cannot be over before it is cancelled.
        let send = try vm.send(
            to: receiver.listening(), ["--lanes", "\(lanes)", "--max-bandwidth", "20M"], folder: folder.path)
        _ = try wait(for: "the migration to begin", seconds: 20) {
            try vm.status()["migration"]?["state"]?.string == "active" ? true : nil
        }
        try pause(milliseconds: milliseconds)
        try vm.control.request("DELETE", "/v1/migration")
        try send.waitForEnd(seconds: 30, expecting: [MigrationFigures.cancelledStatus], every: 5)
        receiver.stop()
        try guestIsWell(verify: false)
        let after = try settled(vm.pid)
        try compare(after, to: [before], "the source of a cancelled attempt")
        cancelled += 1
    }

    private func progress(_ number: Int, _ report: MigrationFigures, _ lanes: Int, _ transport: String) {
        let text =
            "[\(number)/\(soak.count)] \(transport), \(lanes) lane\(lanes == 1 ? "" : "s"): "
            + "\(Int(report.totalMilliseconds)) ms, downtime \(milliseconds(report.downtimeMilliseconds)) ms\n"
        FileHandle.standardError.write(Data(text.utf8))
    }

    private func milliseconds(_ value: Double) -> String {
        let tenths = Int((value * 10).rounded())
        return "\(tenths / 10).\(tenths % 10)"
    }
}
