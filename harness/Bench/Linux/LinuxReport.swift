/// The figures of Linux guests as people read them, and the promises about them (docs/performance.md).

import HarnessSupport

struct LinuxReport {
    private let records: [LinuxRecord]

    init(_ records: [LinuxRecord]) { self.records = records }

    private func sample(_ key: KeyPath<LinuxRecord, Double?>, _ contender: LinuxContender) -> Sample? {
        Sample(records.filter { $0.contender == contender && $0.failure == nil }.compactMap { $0[keyPath: key] })
    }

    private var table: String {
        var table = TextTable([
            "median (max)", "runs", "boot s", "RSS without RAM MiB", "total ms", "downtime ms", "sent MiB",
            "touched MiB",
        ])
        for contender in LinuxContender.allCases {
            func cell(_ key: KeyPath<LinuxRecord, Double?>, _ digits: Int) -> String {
                sample(key, contender).map { "\(fixed($0.median, digits)) (\(fixed($0.largest, digits)))" } ?? "-"
            }
            table.add([
                contender.rawValue, "\(sample(\.bootSeconds, contender)?.count ?? 0)", cell(\.bootSeconds, 2),
                cell(\.residentMiB, 1), cell(\.total, 0), cell(\.downtime, 1), cell(\.sentMiB, 1),
                cell(\.touchedMiB, 1),
            ])
        }
        return table.text
    }

    /// Every promise that these runs can judge.
    func judgements() -> [Judgement] {
        let cell = records.first.map { "Linux, \($0.memoryMiB) MiB, \($0.vcpus) vCPU(s), idle" } ?? ""
        var all: [Judgement] = []
        func compare(
            _ promise: String, _ key: KeyPath<LinuxRecord, Double?>, to others: [LinuxContender], allowed: Double
        ) {
            let theirs = others.compactMap { sample(key, $0) }.min { $0.median < $1.median }
            guard let mine = sample(key, .migratectl), let theirs, theirs.median > 0 else { return }
            all.append(
                Judgement(
                    promise, cell, ratio: mine.median / theirs.median, interval: mine.ratioInterval(to: theirs),
                    allowed: allowed))
        }
        compare("boot to init, to QEMU's fastest", \.bootSeconds, to: [.qemu, .qemuMicroVM], allowed: 1)
        compare("total, to QEMU", \.total, to: [.qemu], allowed: 1)
        compare("downtime, to QEMU", \.downtime, to: [.qemu], allowed: 0.5)
        if let resident = sample(\.residentMiB, .migratectl) {
            // 15 MB are 14.3 MiB.
            all.append(
                Judgement(
                    "resident memory without guest RAM, MB", cell, ratio: resident.median * 1.048576, interval: nil,
                    allowed: 15))
        }
        let shares = records.filter { $0.contender == .migratectl && $0.failure == nil }.compactMap { record in
            record.sentMiB.flatMap { sent in record.touchedMiB.map { sent / $0 } }
        }
        if let share = Sample(shares) {
            all.append(
                Judgement(
                    "pages sent, to pages touched (largest)", cell, ratio: share.largest, interval: nil, allowed: 1))
        }
        return all
    }

    var text: String {
        let verdict = judgements().map {
            "\($0.kept ? "kept  " : "BROKEN") \($0.promise): \($0.measured)  (\($0.cell))"
        }
        return ([table, ""] + verdict).joined(separator: "\n")
    }
}
