/// migratectl-bench: pre-copy of the selftest guest by migratectl, by QEMU, and as fast as a plain copy loop can.

import ArgumentParser
import CHarness
import HarnessSupport

@main
struct Bench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "harness/bench",
        abstract: "Measures migratectl against QEMU and against a plain copy loop, interleaved, on this machine.",
        discussion: """
            Each round of a cell runs every contender once, in alternating order. After each migration the guest checks all \
            its pages; a run with a wrong page counts as failed. Raw results go to harness/results/ as JSON lines; tables \
            and the verdict on the promises of docs/performance.md go to standard output.
            """,
        subcommands: [Measure.self, LinuxBench.self, Report.self, LimitReceive.self, LimitSend.self],
        defaultSubcommand: Measure.self)
}

struct Report: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Prints the tables and the verdict of earlier results.")

    @Argument(help: "Files of harness/results/.") var files: [String]

    func run() throws {
        printReport(try Results(files: files))
    }
}

func printReport(_ results: Results) {
    for machine in results.machines {
        print(
            "\(machine.startedAt): \(machine.processors) x \(machine.processor), \(machine.memoryMiB) MiB, Linux \(machine.kernel) "
                + "(\(machine.kvm)), huge pages \(machine.hugePages)\n\(machine.qemu); \(machine.migratectl)\n")
    }
    for cell in results.cells {
        print(results.table(of: cell))
    }
    print(results.verdict())
}
