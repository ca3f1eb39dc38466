/// `migratectl report`: what the test guest saw.

import ArgumentParser
import Control
import FoundationEssentials
import SelfTest

struct ReportCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "report", abstract: "Ask the selftest guest what it saw.",
        discussion: """
            Of a VM that has ended or moved away, the report that its process left behind is shown. Ends with 21 if the
            guest found something wrong.
            """)

    @OptionGroup var vm: VMArgument

    @Flag(help: "Have the guest check every page that it owns first.")
    var verify = false

    @Flag(help: "Have the guest forget the gaps that it felt, once it has reported them.")
    var resetGaps = false

    @Option(help: ArgumentHelp("How long to wait for the guest.", valueName: "duration"), transform: parseMilliseconds)
    var timeout: Double = 60_000

    @OptionGroup var output: OutputOptions

    func run() throws {
        let request = GuestReportRequest(
            verify: verify, resetGaps: resetGaps, timeout: .milliseconds(Int64(min(max(timeout, 1), 600_000))))
        do {
            let bytes = try vm.client().guestReport(request)
            try show(try ControlJSON.decode(SelfTestReport.self, from: bytes), note: nil)
        } catch let error as ControlError where error.code == .vmNotFound && !verify && !resetGaps {
            // What a process left behind answers no order to the guest.
            let path = try RuntimeDirectory.standard().reportPath(of: VMName(existing: vm.name))
            guard let data = try? Data(contentsOf: URL(filePath: path)) else { throw error }
            let left = try ControlJSON.decode(ProcessReport.self, from: Array(data))
            guard let guest = left.guest else {
                throw CommandError(.vmNotFound, "\(left.message), and its guest had said nothing")
            }
            try show(guest, note: left.message)
        }
    }

    private func show(_ report: SelfTestReport, note: String?) throws {
        if let note { Output.note("migratectl: \(note)") }
        if output.json { try Output.json(report) } else { try Output.line(ReportText.text(of: report)) }
        if let verdict = report.verdict, verdict != .pass {
            throw CommandError(.guestFailed, "the guest found something wrong")
        }
    }
}

/// The guest's report in words.
enum ReportText {
    static func text(of report: SelfTestReport) -> String {
        var lines: [String] = []
        let verdict =
            switch report.verdict {
            case .pass: "pass: nothing was lost, stale, torn or went back"
            case .fail: "FAIL"
            case .fatal: "FATAL" + (report.error.map { ": \($0)" } ?? "")
            case nil: "none yet"
            }
        lines.append("verdict        \(verdict)")
        if let summary = report.summary {
            let counters = summary.counters
            lines += [
                "guest time     \(Format.milliseconds(Double(summary.elapsedMilliseconds))), \(summary.cpuCount) vCPU"
                    + (summary.cpuCount == 1 ? "" : "s"),
                "pages          \(summary.pageCount) owned, \(counters.pagesWritten) writes, \(counters.pagesRead) reads, "
                    + "\(counters.pagesVerified) checks",
                "wrong pages    \(counters.errors)",
                "lost registers \(counters.registerFailures)",
                "clock back     \(counters.clockBackward) (TSC \(counters.tscBackward))",
                "timer          \(counters.timerTicks) ticks, \(counters.timerStalls) stalls",
                "heartbeat      \(counters.heartbeatFailures) failures",
                "largest gap    \(Format.milliseconds(Double(summary.largestGap.nanoseconds) / 1e6))",
            ]
        }
        for verification in report.verifications.suffix(1) {
            lines.append(
                "verified       \(verification.pageCount) pages, \(verification.badPageCount) wrong, in "
                    + Format.milliseconds(Double(verification.milliseconds)))
        }
        for page in report.badPages.prefix(10) {
            lines.append(
                "wrong page     \(page.page) at \(page.address): \(page.kind), expected generation "
                    + "\(page.expected.generation) sum \(page.expected.sum), found generation \(page.found.generation) sum "
                    + "\(page.found.sum)")
        }
        return lines.joined(separator: "\n")
    }
}
