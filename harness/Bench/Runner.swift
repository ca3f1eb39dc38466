/// Runs all contenders of all cells, round by round.

import CHarness
import Foundation
import Glibc
import HarnessSupport

struct Runner {
    let qemu: QemuSetup
    let ours: MigratectlSetup
    let limitVerify: Bool
    let program: String
    let writer: ResultWriter
    /// Runs to do, for the progress.
    let total: Int
    var done = 0
    var failed = 0

    init(
        qemu: QemuSetup, ours: MigratectlSetup, limitVerify: Bool, program: String, writer: ResultWriter, total: Int
    ) {
        self.qemu = qemu
        self.ours = ours
        self.limitVerify = limitVerify
        self.program = program
        self.writer = writer
        self.total = total
    }

    mutating func measure(cells: [Cell], rounds: Int, contenders: [Contender]) throws {
        for cell in cells {
            talk("\n\(cell.title)")
            for round in 1...rounds {
                // Whatever drifts on this machine, or is left behind by the run before, hits all contenders alike.
                let order = alternate(contenders, round)
                var sent: [Int: Int] = [:]
                for contender in order {
                    let record = try run(contender, cell, round, sent)
                    if case .migratectl(let lanes) = contender, let bytes = record.bytesSent {
                        sent[lanes] = Int(bytes) >> 20
                    }
                }
            }
        }
    }

    /// Forward in odd rounds and backward in even ones, except that a limit comes after the migration that it is
    /// paired with: it moves as many pages.
    private func alternate(_ contenders: [Contender], _ round: Int) -> [Contender] {
        let programs = contenders.filter { if case .limit = $0 { false } else { true } }
        let limits = contenders.filter { if case .limit = $0 { true } else { false } }
        let order = round % 2 == 1 ? programs : programs.reversed()
        var result: [Contender] = []
        var rest = round % 2 == 1 ? limits : limits.reversed()
        for contender in order {
            result.append(contender)
            if case .migratectl(let lanes) = contender, let index = rest.firstIndex(of: .limit(lanes: lanes)) {
                result.append(rest.remove(at: index))
            }
        }
        return result + rest
    }

    private mutating func run(_ contender: Contender, _ cell: Cell, _ round: Int, _ sent: [Int: Int]) throws
        -> RunRecord
    {
        var record = RunRecord(cell: cell, contender: contender, round: round, startedAt: timestamp())
        do {
            try washMemory(for: cell)
            switch contender {
            case .migratectl(let lanes):
                try MigratectlRun(ours, cell, lanes: lanes).measure(into: &record)
            case .qemu(let channels):
                try QemuRun(qemu, cell, channels: channels).measure(into: &record)
            case .limit(let lanes):
                try LimitRun(cell: cell, lanes: lanes, paired: sent[lanes], verify: limitVerify, program: program)
                    .measure(into: &record) { try LoadGuest(ours, cell) }
            }
        } catch {
            // A signal ends everything; a failed run is a result.
            try checkInterruption()
            record.failure = "\(error)"
            failed += 1
        }
        try writer.append(record)
        done += 1
        let outcome =
            record.failure.map { "FAILED: \($0)" }
            ?? "\(fixed(record.total ?? .nan, 0)) ms, blackout \(record.blackout.map { fixed($0) } ?? "-") ms"
        talk("[\(done)/\(total)] round \(round), \(contender.name): \(outcome)")
        return record
    }

    /// Touches and frees as much memory as a run needs, so that no run pays for pages that this machine itself has
    /// never had (under a hypervisor a first touch can cost ten times a later one).
    private func washMemory(for cell: Cell) throws {
        let wanted = UInt64(cell.memoryMiB * 5 / 2 + 256) << 20
        let available = UInt64(sysconf(Int32(_SC_AVPHYS_PAGES))) * 4096
        let code = harness_wash_memory(min(wanted, available / 10 * 9))
        guard code == 0 else {
            throw HarnessError("cannot touch memory before the run: \(String(cString: strerror(-code)))")
        }
    }
}

/// What these figures were taken on.
func describeMachine(
    _ started: String, _ qemu: QemuSetup, _ ours: MigratectlSetup, folder: String
) throws -> MachineDescription {
    let processor = readText("/proc/cpuinfo").flatMap { text in
        text.split(separator: "\n").first { $0.hasPrefix("model name") }?.split(separator: ":").last
            .map { $0.trimmingCharacters(in: .whitespaces) }
    }
    let modules = ["kvm_pvm", "kvm_amd", "kvm_intel"].filter {
        FileManager.default.fileExists(atPath: "/sys/module/\($0)")
    }
    let kernel = readText("/proc/sys/kernel/osrelease")?.trimmingCharacters(in: .whitespacesAndNewlines)
    let hugePages = readText("/sys/kernel/mm/transparent_hugepage/enabled")?.trimmingCharacters(
        in: .whitespacesAndNewlines)
    return MachineDescription(
        startedAt: started, processors: sysconf(Int32(_SC_NPROCESSORS_ONLN)),
        memoryMiB: sysconf(Int32(_SC_PHYS_PAGES)) / 256, processor: processor ?? "unknown", kernel: kernel ?? "unknown",
        kvm: modules.isEmpty ? "kvm" : modules.joined(separator: " "),
        qemu: (try? qemu.version(folder: folder)) ?? "no QEMU",
        migratectl: try ours.program.version(folder: folder), hugePages: hugePages ?? "unknown")
}
