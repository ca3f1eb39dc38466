/// The subcommand that measures.

import ArgumentParser
import CHarness
import Foundation
import HarnessSupport
import SelfTest

struct Measure: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Measures (the default).")

    @Option(parsing: .upToNextOption, help: "Guest memory in MiB.") var memory: [Int] = [256, 1024, 4096]
    @Option(parsing: .upToNextOption, help: "What the guest writes, in MB/s.") var rate: [Int] = [0, 200, 1000]
    @Option(parsing: .upToNextOption, help: "Lanes of migratectl, and connections of the copy loop.") var lanes: [Int] =
        [1, 2]
    @Option(parsing: .upToNextOption, help: "Channels of QEMU's multifd; 0 is plain.") var channels: [Int] = [0, 2, 4]
    @Option(parsing: .upToNextOption, help: "tcp, unix.") var transport: [Transport] = [.tcp]
    @Option(parsing: .upToNextOption, help: "The destination's memory: touched, untouched.")
    var destination: [Destination] = [.touched]
    @Option(parsing: .upToNextOption, help: "Downtime limits in ms, or default.") var downtimeLimit: [String] = ["20"]
    @Option(help: "vCPUs.") var vcpus = 1
    @Option(help: "Rounds of each cell.") var runs = 20
    @Option(parsing: .upToNextOption, help: "Who is measured: migratectl, qemu, limit.")
    var contenders: [String] = ["migratectl", "qemu", "limit"]
    @Flag(help: "Two rounds of one cell: does everything work?") var quick = false
    @Flag(help: "The cells that the promises of docs/performance.md are about.") var promises = false
    @Flag(help: "The copy loop hashes at its receiver too.") var limitVerify = false
    @Option(help: "The built migratectl.") var migratectl: String?
    @Option(help: "QEMU.") var qemu = "/usr/bin/qemu-system-x86_64"
    @Option(help: "Where results go.") var output = "harness/results"

    func validate() throws {
        if runs < 1 { throw ValidationError("--runs must be at least 1.") }
        if memory.contains(where: { $0 < 64 || $0 % 2 != 0 }) {
            throw ValidationError("--memory takes even MiB from 64 on.")
        }
        if lanes.contains(where: { !(1...16).contains($0) }) { throw ValidationError("--lanes goes from 1 to 16.") }
        if channels.contains(where: { !(0...16).contains($0) }) {
            throw ValidationError("--channels goes from 0 to 16.")
        }
        if rate.contains(where: { $0 < 0 }) { throw ValidationError("--rate cannot be negative.") }
        let known: Set = ["migratectl", "qemu", "limit"]
        if let wrong = contenders.first(where: { !known.contains($0) }) {
            throw ValidationError("There is no contender \(wrong): known are migratectl, qemu, limit.")
        }
        _ = try limits()
    }

    private func limits() throws -> [Double?] {
        try downtimeLimit.map { text in
            if text == "default" { return nil }
            guard let limit = Double(text), limit >= 1 else {
                throw ValidationError("--downtime-limit takes milliseconds or the word default.")
            }
            return limit
        }
    }

    /// The cells asked for, in the order in which they are measured.
    private func cells() throws -> [Cell] {
        func cell(_ memory: Int, _ rate: Int, _ destination: Destination = .touched, _ limit: Double? = 20) -> Cell {
            Cell(
                memoryMiB: memory, dirtyRate: rate, transport: .tcp, destination: destination,
                downtimeLimitMilliseconds: limit, vcpus: 1)
        }
        if quick { return [cell(256, 200)] }
        if promises {
            return [
                cell(1024, 0), cell(1024, 200), cell(1024, 0, .untouched), cell(1024, 200, .untouched),
                cell(1024, 0, .touched, nil), cell(256, 0), cell(4096, 0), cell(256, 200), cell(4096, 200),
            ]
        }
        let limits = try limits()
        return memory.flatMap { memory in
            rate.flatMap { rate in
                transport.flatMap { transport in
                    destination.flatMap { destination in
                        limits.map { limit in
                            Cell(
                                memoryMiB: memory, dirtyRate: rate, transport: transport, destination: destination,
                                downtimeLimitMilliseconds: limit, vcpus: vcpus)
                        }
                    }
                }
            }
        }
    }

    /// Everybody, migratectl before the limit, because the limit moves as many pages.
    private func everybody() -> [Contender] {
        var all: [Contender] = []
        if contenders.contains("migratectl") { all += lanes.map { .migratectl(lanes: $0) } }
        if contenders.contains("qemu") { all += channels.map { .qemu(channels: $0) } }
        if contenders.contains("limit") { all += lanes.map { .limit(lanes: $0) } }
        return all
    }

    func run() throws {
        harness_catch_signals()
        let program = try ownPath()
        let built = migratectl ?? (program as NSString).deletingLastPathComponent + "/migratectl"
        let folder = try ScratchFolder()
        let kernel = folder.path + "/selftest.elf"
        guard FileManager.default.createFile(atPath: kernel, contents: Data(SelfTestImage.bytes))
        else { throw HarnessError("cannot write \(kernel)") }
        let clock = TSCSample()
        let qemuSetup = QemuSetup(program: qemu, kernel: kernel, clock: clock)
        let ours = MigratectlSetup(program: try Migratectl(program: built), clock: clock)

        try FileManager.default.createDirectory(atPath: output, withIntermediateDirectories: true)
        let started = timestamp()
        let writer = try ResultWriter(path: "\(output)/\(started.replacingOccurrences(of: ":", with: "")).jsonl")
        let machine = try describeMachine(started, qemuSetup, ours, folder: folder.path)
        try writer.append(machine)

        let cells = try cells()
        let rounds = quick ? 2 : runs
        var runner = Runner(
            qemu: qemuSetup, ours: ours, limitVerify: limitVerify, program: program, writer: writer,
            total: cells.count * rounds * everybody().count)
        try runner.measure(cells: cells, rounds: rounds, contenders: everybody())
        printReport(try Results(files: [writer.path]))
        talk("Raw results: \(writer.path)")
        if runner.failed > 0 { throw ExitCode(1) }
    }

    private func ownPath() throws -> String {
        guard let path = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe") else {
            throw HarnessError("cannot find this program's own path in /proc/self/exe")
        }
        return path
    }
}

extension Transport: ExpressibleByArgument {}
extension Destination: ExpressibleByArgument {}

/// A line for whoever watches; standard output is for the results.
func talk(_ text: String) {
    FileHandle.standardError.write(Data((text + "\n").utf8))
}
