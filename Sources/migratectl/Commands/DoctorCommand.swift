/// `migratectl doctor`: what this host allows, what is missing, and how to get it.

import ArgumentParser
import Control
import Machine
import VMState

struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor", abstract: "Look at what this host's KVM, memory and kernel allow.",
        discussion: "Says what each missing thing costs and how to get it. Ends with 2 if no VM can run here.")

    @Flag(help: "Show what is good as well.")
    var all = false

    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp(
            "Instead, compute the CPU that these hosts have in common, from what doctor --json said on each.",
            discussion: "The result is JSON, for run --cpu FILE.", valueName: "report"))
    var baseline: [String] = []

    @Option(
        name: .customLong("kvm-device"),
        help: ArgumentHelp("The device of KVM.", valueName: "path", visibility: .hidden))
    var kvmPath = "/dev/kvm"

    @OptionGroup var output: OutputOptions

    func run() throws {
        if !baseline.isEmpty { return try Output.json(commonCPU()) }
        var report = HostProbe(kvmPath: kvmPath).run()
        report.sections.append(.init(title: "migratectl", findings: [runtimeDirectory()]))
        if output.json { try Output.json(report) } else { try Output.line(text(report)) }
        if !report.isUsable { throw CommandError(.noKVM, "no VM can run on this host: see what is missing above") }
    }

    private func commonCPU() throws -> CPUBaseline {
        let all = try baseline.map { try CPUBaselineFile.read($0) }
        do {
            return try all.dropFirst().reduce(all[0]) { try $0.common(with: $1) }
        } catch {
            throw CommandError(.failure, "\(error)")
        }
    }

    private func runtimeDirectory() -> HostReport.Finding {
        do {
            let directory = try RuntimeDirectory.standard()
            let running = try directory.runningNames().count
            return .init(
                "runtime directory", .good, "\(directory.path), \(running) VM\(running == 1 ? "" : "s") running")
        } catch {
            return .init(
                "runtime directory", .poor, error.message, cost: "no VM can be started under a name",
                remedy: "set MIGRATECTL_RUNTIME_DIR to a private directory")
        }
    }

    private func text(_ report: HostReport) -> String {
        var lines: [String] = []
        for section in report.sections {
            let shown = section.findings.filter { all || $0.status != .good }
            let good = section.findings.count - shown.count
            lines.append(section.title + (good > 0 ? " (\(good) good)" : ""))
            let width = shown.map(\.name.count).max() ?? 0
            for finding in shown {
                lines.append("  \(Self.mark(finding.status)) \(finding.name.padded(width))  \(finding.value)")
                let indent = String(repeating: " ", count: width + 6)
                if let cost = finding.cost { lines.append("\(indent)costs: \(cost)") }
                if let remedy = finding.remedy { lines.append("\(indent)get it: \(remedy)") }
            }
        }
        lines.append("")
        lines.append(report.isUsable ? "VMs can run here." : "No VM can run here.")
        return lines.joined(separator: "\n")
    }

    private static func mark(_ status: HostReport.Status) -> String {
        switch status {
        case .good: "+"
        case .note: " "
        case .poor: "!"
        case .missing: "X"
        }
    }
}
