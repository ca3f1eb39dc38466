/// Numbers as people read them.

import Units

enum Format {
    /// "1.5 GiB".
    static func bytes(_ count: UInt64) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB"]
        var value = Double(count)
        var unit = 0
        while value >= 1024, unit + 1 < units.count {
            value /= 1024
            unit += 1
        }
        return unit == 0 || value == value.rounded() && value < 1024
            ? "\(Int(value)) \(units[unit])" : "\(decimal(value, value < 10 ? 2 : value < 100 ? 1 : 0)) \(units[unit])"
    }

    /// "123 MB/s": rates are decimal, as link speeds are.
    static func rate(_ bytesPerSecond: Double) -> String {
        guard bytesPerSecond.isFinite, bytesPerSecond >= 0 else { return "-" }
        if bytesPerSecond >= 1e9 { return decimal(bytesPerSecond / 1e9, 2) + " GB/s" }
        if bytesPerSecond >= 1e6 { return decimal(bytesPerSecond / 1e6, bytesPerSecond < 1e7 ? 1 : 0) + " MB/s" }
        return decimal(bytesPerSecond / 1e3, 0) + " kB/s"
    }

    /// "12.3 ms" or "4.56 s".
    static func milliseconds(_ value: Double) -> String {
        guard value.isFinite else { return "-" }
        if abs(value) >= 1000 { return decimal(value / 1000, 2) + " s" }
        return decimal(value, value < 10 ? 2 : 1) + " ms"
    }

    /// "2d 3h", "4m 05s".
    static func elapsed(_ seconds: Double) -> String {
        let total = Int(clamping: Int64(max(0, min(seconds, 1e12))))
        if total >= 86400 { return "\(total / 86400)d \(total / 3600 % 24)h" }
        if total >= 3600 { return "\(total / 3600)h \(pad(total / 60 % 60))m" }
        if total >= 60 { return "\(total / 60)m \(pad(total % 60))s" }
        return "\(total)s"
    }

    /// A number with so many digits behind the point. (String(format:) would need all of Foundation.)
    static func decimal(_ value: Double, _ digits: Int) -> String {
        let scale = [1.0, 10, 100, 1000][min(max(digits, 0), 3)]
        let scaled = (abs(value) * scale).rounded()
        guard scaled < 9e15 else { return "\(value)" }
        let whole = Int64(scaled)
        let sign = value < 0 && whole != 0 ? "-" : ""
        guard digits > 0 else { return "\(sign)\(whole)" }
        let fraction = String(whole % Int64(scale))
        return "\(sign)\(whole / Int64(scale))." + String(repeating: "0", count: digits - fraction.count) + fraction
    }

    private static func pad(_ value: Int) -> String { value < 10 ? "0\(value)" : "\(value)" }
}

/// Columns of text.
struct Table {
    private var rows: [[String]]

    init(_ header: [String]) { rows = [header] }

    mutating func add(_ row: [String]) { rows.append(row) }

    var text: String {
        let columns = rows.map(\.count).max() ?? 0
        let widths = (0..<columns).map { column in rows.map { $0.count > column ? $0[column].count : 0 }.max() ?? 0 }
        return rows.map { row in
            var line = ""
            for (column, cell) in row.enumerated() {
                line += cell
                if column + 1 < row.count { line += String(repeating: " ", count: widths[column] - cell.count + 2) }
            }
            return line
        }.joined(separator: "\n")
    }
}
