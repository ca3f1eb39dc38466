/// The results as people read them.

import HarnessSupport

/// Columns of text, in Markdown's form.
struct TextTable {
    private var rows: [[String]] = []

    init(_ header: [String]) {
        rows.append(header)
    }

    mutating func add(_ row: [String]) {
        rows.append(row)
    }

    var text: String {
        let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        func line(_ row: [String]) -> String {
            let cells = row.enumerated().map { index, cell in
                let space = String(repeating: " ", count: widths[index] - cell.count)
                return index == 0 ? cell + space : space + cell
            }
            return "| " + cells.joined(separator: " | ") + " |"
        }
        let rule = "|" + widths.map { String(repeating: "-", count: $0 + 2) }.joined(separator: "|") + "|"
        return ([line(rows[0]), rule] + rows.dropFirst().map(line)).joined(separator: "\n")
    }
}

/// A number with a fixed count of digits behind the point.
func fixed(_ value: Double, _ digits: Int = 1) -> String {
    if !value.isFinite { return "-" }
    var scale = 1.0
    for _ in 0..<digits { scale *= 10 }
    let rounded = (value.magnitude * scale).rounded()
    let sign = value < 0 && rounded > 0 ? "-" : ""
    guard digits > 0, rounded < 1e15 else { return sign + String(Int(min(rounded, 1e15))) }
    let whole = Int(rounded / scale)
    let rest = String(Int(rounded) - whole * Int(scale))
    return sign + String(whole) + "." + String(repeating: "0", count: digits - rest.count) + rest
}

extension Results {
    /// One table a cell: medians with maxima in brackets, and ratios of medians.
    func table(of cell: Cell) -> String {
        var table = TextTable([
            "median (max)", "runs", "total ms", "blackout ms", "felt gap ms", "noise ms", "reported down ms",
            "CPU s/GiB",
            "sent GiB", "total / QEMU", "total / limit", "blackout / QEMU",
        ])
        let qemu = bestQemu(in: cell)
        for name in contenders(in: cell) {
            func cellText(_ key: KeyPath<RunRecord, Double?>, _ digits: Int) -> String {
                guard let sample = sample(key, in: cell, of: name) else { return "-" }
                return "\(fixed(sample.median, digits)) (\(fixed(sample.largest, digits)))"
            }
            func ratio(_ key: KeyPath<RunRecord, Double?>, to other: String?) -> String {
                guard let other, let mine = sample(key, in: cell, of: name),
                    let theirs = sample(key, in: cell, of: other), theirs.median > 0
                else { return "-" }
                return fixed(mine.median / theirs.median, 2)
            }
            let failed = failures(in: cell, of: name).count
            let sent = sample(\.bytesSent, in: cell, of: name).map { fixed($0.median / Double(1 << 30), 2) } ?? "-"
            let ours = name.hasPrefix("migratectl")
            table.add([
                name,
                failed == 0
                    ? "\(runs(in: cell, of: name).count)" : "\(runs(in: cell, of: name).count), \(failed) FAILED",
                cellText(\.total, 0), cellText(\.blackout, 1), cellText(\.feltGap, 1), cellText(\.noise, 1),
                cellText(\.reportedDowntime, 1), cellText(\.cpuPerGiB, 2), sent,
                ratio(\.total, to: ours ? qemu : nil), ratio(\.total, to: ours ? limit(for: name) : nil),
                ratio(\.blackout, to: ours ? qemu : nil),
            ])
        }
        return "\(cell.title)\n\n\(table.text)\n"
    }

    /// QEMU's mode with the lowest median total time in this cell.
    func bestQemu(in cell: Cell) -> String? {
        contenders(in: cell).filter { $0.hasPrefix("qemu") && sample(\.total, in: cell, of: $0) != nil }
            .min { (sample(\.total, in: cell, of: $0)?.median ?? 0) < (sample(\.total, in: cell, of: $1)?.median ?? 0) }
    }

    /// The copy loop with as many connections as a migratectl contender has lanes.
    func limit(for contender: String) -> String {
        "limit-" + (contender.split(separator: "-").last.map(String.init) ?? "1")
    }
}
