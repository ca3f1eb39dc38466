/// A migration in words.

import Control
import Migrate
import Units

enum MigrationText {
    /// One line of progress.
    static func progress(_ status: MigrationStatus) -> String? {
        if status.state == .doubt { return status.message ?? "the hand-over is in doubt" }
        if let receiving = status.receiving, let missing = receiving.pagesMissing {
            return
                "\(receiving.machine) runs here; \(Format.bytes(missing * UInt64(pageByteCount))) of its memory follow"
        }
        if let receiving = status.receiving {
            return "receiving \(receiving.machine): \(share(receiving.pagesReceived, receiving.pagesTotal)), "
                + Format.bytes(receiving.bytesReceived)
        }
        guard let progress = status.progress else { return nil }
        let elapsed = Format.decimal(progress.elapsedSeconds, 1) + " s"
        guard progress.phase != .connecting else { return "\(elapsed)  connecting to \(status.peer ?? "the receiver")" }
        let left = Format.bytes(progress.pagesRemaining * UInt64(pageByteCount))
        if let note = progress.note { return "\(elapsed)  \(note)" }
        if progress.phase == .paging {
            return "\(elapsed)  runs at \(status.peer ?? "the destination")  left \(left)  "
                + Format.rate(progress.bytesPerSecond)
        }
        let downtime = progress.expectedDowntimeMilliseconds.map(Format.milliseconds) ?? "-"
        // The first round sends all of memory; from then on more is sent than there is.
        let whole = progress.round == 0 ? " of \(Format.bytes(progress.pagesTotal * UInt64(pageByteCount)))" : ""
        return "\(elapsed)  round \(progress.round)  sent \(Format.bytes(progress.bytesSent))\(whole)  left \(left)  "
            + "\(Format.rate(progress.bytesPerSecond))  dirty \(Format.rate(progress.dirtyBytesPerSecond))  downtime "
            + downtime
    }

    private static func share(_ part: UInt64, _ whole: UInt64) -> String {
        guard whole > 0 else { return "0 %" }
        return Format.decimal(Double(part) / Double(whole) * 100, 0) + " %"
    }

    /// What a completed migration took.
    static func summary(of report: MigrationReport) -> String {
        var lines = [
            "\(report.machine) runs at \(report.destination)",
            "",
            "total time     \(Format.milliseconds(report.totalSeconds * 1000)) (setup "
                + "\(Format.milliseconds(report.setupSeconds * 1000)))",
            "downtime       " + (report.downtimeMilliseconds.map(Format.milliseconds) ?? "not measured"),
        ]
        for phase in report.phases.inOrder {
            lines.append("  \(phase.name.padded(12)) \(Format.milliseconds(phase.milliseconds))")
        }
        lines += [
            "sent           \(Format.bytes(report.bytesSent)) over \(report.lanes) lane\(report.lanes == 1 ? "" : "s"), "
                + "\(Format.rate(report.bytesPerSecond)); \(Format.bytes(report.downtimeBytes)) of it in the downtime",
            "pages          \(report.pagesSent) sent, \(report.pagesResent) of them again, \(report.pagesZero) zero or untouched, "
                + "of \(report.pagesTotal)",
            "rounds         \(report.rounds.count), attempts \(report.attempts)",
            "guest wrote    "
                + (report.workingSetBytes.map { "\(Format.bytes($0)) of its memory meanwhile" } ?? "not measured"),
            "digest         " + (report.digest.map { "\($0), agreed by both sides" } ?? "not agreed"),
        ]
        if let paging = report.paging { lines += Self.lines(of: paging) }
        lines += (report.warnings ?? []).map { "note           \($0)" }
        return lines.joined(separator: "\n")
    }

    private static func lines(of paging: PagingReport) -> [String] {
        var lines = [
            "followed       \(paging.pagesLeft) pages in \(Format.milliseconds(paging.seconds * 1000)): "
                + "\(paging.pagesDemanded) on demand, \(paging.pagesPushed) pushed (\(paging.pagesPrefetched) near faults), "
                + "\(paging.pagesSentTwice) twice",
            "post-copy      " + (paging.reason ?? "")
                + (paging.interruptions > 0 ? "; interrupted \(paging.interruptions) times" : ""),
        ]
        if let faults = paging.faults {
            func time(_ nanoseconds: UInt64) -> String { Format.milliseconds(Double(nanoseconds) / 1e6) }
            lines.append(
                "faults         \(faults.faults), served in \(time(faults.p50)) (median), \(time(faults.p99)) (99 %), "
                    + "\(time(faults.longest)) (longest)")
        }
        return lines
    }

    /// Why a migration did not end well.
    static func failure(_ status: MigrationStatus, _ name: String) -> String {
        let reason = status.message.map { ": \($0)" } ?? ""
        return switch status.state {
        case .cancelled: "the migration was cancelled; \(name) runs on here"
        case .refused: "the receiver refused \(name)\(reason); it runs on here"
        case .unreachable: "no receiver at \(status.peer ?? "the destination")\(reason); \(name) runs on here"
        case .peerLost: "the receiver was lost\(reason); \(name) runs on here"
        case .notConverging:
            "the limits cannot be kept\(reason); \(name) runs on here (see --max-downtime)"
        case .doubt: "\(name) stands still on both sides\(reason); decide with: migratectl resolve \(name)"
        case .droppedHere: "this side's copy of \(name) was dropped, as was decided"
        case .resolvedHere: "\(name) runs on here, as was decided"
        default: "the migration failed\(reason); \(name) runs on here"
        }
    }
}

extension String {
    func padded(_ width: Int) -> String { count >= width ? self : self + String(repeating: " ", count: width - count) }
}
