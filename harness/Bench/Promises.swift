/// The promises of docs/performance.md, judged on results.

import HarnessSupport

/// One promise in one cell.
struct Judgement {
    var promise: String
    var cell: String
    /// What was measured, and what was allowed.
    var measured: String
    var kept: Bool

    /// A ratio of medians that must not exceed `allowed`.
    init(_ promise: String, _ cell: String, ratio: Double, interval: ClosedRange<Double>?, allowed: Double) {
        self.promise = promise
        self.cell = cell
        let range = interval.map { " [\(fixed($0.lowerBound, 2))-\(fixed($0.upperBound, 2))]" } ?? ""
        measured = "\(fixed(ratio, 2))\(range), allowed \(fixed(allowed, 2))"
        kept = ratio <= allowed
    }

    /// Milliseconds that must not exceed `allowed`.
    init(_ promise: String, _ cell: String, milliseconds: Double, allowed: Double) {
        self.promise = promise
        self.cell = cell
        measured = "\(fixed(milliseconds, 1)) ms, allowed \(fixed(allowed, 1)) ms"
        kept = milliseconds <= allowed
    }
}

extension Results {
    /// Every promise that these results can judge. A promise without its cells is not listed.
    func judgements() -> [Judgement] {
        var all: [Judgement] = []
        for cell in cells where cell.memoryMiB == 1024 && [0, 200].contains(cell.dirtyRate) && cell.vcpus == 1 {
            if cell.downtimeLimitMilliseconds == nil {
                all += defaultPause(cell)
            } else if cell.destination == .untouched {
                all += compare("total, memory never touched, to QEMU's best", \.total, cell, bestQemu(in: cell), 0.5)
            } else {
                all += speed(cell) + standstill(cell) + processor(cell)
            }
        }
        return all + slope()
    }

    private func ours(in cell: Cell) -> [String] {
        contenders(in: cell).filter { $0.hasPrefix("migratectl") && !runs(in: cell, of: $0).isEmpty }
    }

    /// Our lane count with the lowest median total: what is compared with QEMU's best mode, in every figure.
    private func best(in cell: Cell) -> String? {
        ours(in: cell).min {
            (sample(\.total, in: cell, of: $0)?.median ?? 0) < (sample(\.total, in: cell, of: $1)?.median ?? 0)
        }
    }

    private func compare(
        _ promise: String, _ key: KeyPath<RunRecord, Double?>, _ cell: Cell, _ other: String?, _ allowed: Double,
        contender: String? = nil
    ) -> [Judgement] {
        guard let name = contender ?? best(in: cell), let other, let mine = sample(key, in: cell, of: name),
            let theirs = sample(key, in: cell, of: other), theirs.median > 0
        else { return [] }
        return [
            Judgement(
                promise, "\(cell.title): \(name) / \(other)", ratio: mine.median / theirs.median,
                interval: mine.ratioInterval(to: theirs), allowed: allowed)
        ]
    }

    private func speed(_ cell: Cell) -> [Judgement] {
        compare("total, to QEMU's best", \.total, cell, bestQemu(in: cell), 1)
            + ours(in: cell).flatMap {
                compare("total, to the limit", \.total, cell, limit(for: $0), 1.2, contender: $0)
            }
    }

    private func standstill(_ cell: Cell) -> [Judgement] {
        guard cell.downtimeLimitMilliseconds == 20, let name = best(in: cell), let qemu = bestQemu(in: cell) else {
            return []
        }
        var all = compare("blackout, to QEMU's", \.blackout, cell, qemu, 0.7)
        if let fixed = sample(\.fixedDowntime, in: cell, of: name) {
            all.append(
                Judgement(
                    "blackout not due to memory", "\(cell.title): \(name)", milliseconds: fixed.median, allowed: 3))
        }
        let noise = Sample(runs.filter { $0.cell == cell }.compactMap(\.noise))
        if let mine = sample(\.feltGap, in: cell, of: name), let theirs = sample(\.feltGap, in: cell, of: qemu),
            let noise
        {
            all.append(
                Judgement(
                    "felt gap, to QEMU's and the noise", "\(cell.title): \(name) / \(qemu)", milliseconds: mine.median,
                    allowed: theirs.median + noise.median))
        }
        return all
    }

    private func processor(_ cell: Cell) -> [Judgement] {
        ours(in: cell).flatMap {
            compare("CPU, to the limit", \.cpuPerGiB, cell, limit(for: $0), 1.3, contender: $0)
                + compare("CPU, to plain QEMU", \.cpuPerGiB, cell, "qemu", 1, contender: $0)
        }
    }

    private func defaultPause(_ cell: Cell) -> [Judgement] {
        guard cell.dirtyRate == 0, let name = best(in: cell), let mine = sample(\.blackout, in: cell, of: name) else {
            return []
        }
        return [
            Judgement("idle guest, default limits", "\(cell.title): \(name)", milliseconds: mine.median, allowed: 10)
        ]
    }

    /// Blackout over memory size, from 256 MiB to 4 GiB.
    private func slope() -> [Judgement] {
        cells.filter { $0.memoryMiB == 256 && $0.destination == .touched }.flatMap { small -> [Judgement] in
            var large = small
            large.memoryMiB = 4096
            return ours(in: small).compactMap { name in
                guard let low = sample(\.blackout, in: small, of: name),
                    let high = sample(\.blackout, in: large, of: name)
                else { return nil }
                return Judgement(
                    "blackout from 256 MiB to 4 GiB", "\(small.title): \(name)", milliseconds: high.median - low.median,
                    allowed: 1)
            }
        }
    }

    /// The judgements as a table, and a line that sums them up.
    func verdict() -> String {
        let all = judgements()
        if all.isEmpty { return "No promise can be judged on these cells (harness/bench --help).\n" }
        var table = TextTable(["promise", "cell", "measured", ""])
        for judgement in all {
            table.add([judgement.promise, judgement.cell, judgement.measured, judgement.kept ? "kept" : "BROKEN"])
        }
        let broken = all.filter { !$0.kept }.count
        return "\(table.text)\n\n\(all.count - broken) of \(all.count) kept.\n"
    }
}
