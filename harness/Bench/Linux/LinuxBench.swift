/// The subcommand that compares a stock Linux guest under migratectl and under QEMU: booting it, keeping it, moving it
/// while it idles. Runs where KVM runs Linux: on a host with VT-x or SVM, or on an emulated one (harness/bench linux).

import ArgumentParser
import CHarness
import Foundation
import HarnessSupport

struct LinuxBench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "linux", abstract: "Boots and moves a stock Linux guest, by migratectl and by QEMU, on one host.",
        discussion: "The guest is harness/guest's, with mk.role=idle. harness/bench linux builds all that is needed.")

    @Option(help: "The kernel: a bzImage.") var kernel: String
    @Option(help: "The guest's initramfs.") var initrd: String
    @Option(help: "Guest memory in MiB.") var memory = 512
    @Option(help: "vCPUs.") var vcpus = 1
    @Option(help: "Rounds.") var runs = 5
    @Option(help: "The built migratectl.") var migratectl: String
    @Option(help: "QEMU.") var qemu = "/usr/bin/qemu-system-x86_64"
    @Option(help: "The folder for results.") var output = "harness/results"

    func validate() throws {
        if runs < 1 { throw ValidationError("--runs must be at least 1.") }
        if memory < 128 || memory % 2 != 0 { throw ValidationError("--memory takes even MiB from 128 on.") }
        if vcpus < 1 { throw ValidationError("--vcpus must be at least 1.") }
    }

    func run() throws {
        harness_catch_signals()
        let folder = try ScratchFolder()
        let guest = LinuxGuest(kernel: kernel, initrd: initrd, memoryMiB: memory, vcpus: vcpus)
        let program = try Migratectl(program: migratectl)
        try FileManager.default.createDirectory(atPath: output, withIntermediateDirectories: true)
        let started = timestamp()
        let writer = try ResultWriter(path: "\(output)/linux-\(started.replacingOccurrences(of: ":", with: "")).jsonl")
        let clock = TSCSample()
        let machine = try describeMachine(
            started, QemuSetup(program: qemu, kernel: kernel, clock: clock),
            MigratectlSetup(program: program, clock: clock), folder: folder.path)
        try writer.append(machine)

        var records: [LinuxRecord] = []
        for round in 1...runs {
            let contenders = LinuxContender.allCases
            for contender in round % 2 == 1 ? contenders : contenders.reversed() {
                var record = LinuxRecord(contender: contender, memoryMiB: memory, vcpus: vcpus, round: round)
                do {
                    switch contender {
                    case .migratectl: try LinuxMigratectlRun(program, guest).measure(into: &record)
                    case .qemu: try LinuxQemuRun(qemu, guest, isMicroVM: false).measure(into: &record)
                    case .qemuMicroVM: try LinuxQemuRun(qemu, guest, isMicroVM: true).measure(into: &record)
                    }
                } catch {
                    try checkInterruption()
                    record.failure = "\(error)"
                }
                try writer.append(record)
                records.append(record)
                talk("round \(round)/\(runs), \(contender.rawValue): \(record.summary)")
            }
        }
        print("\(machine.qemu); \(machine.migratectl); Linux \(machine.kernel) (\(machine.kvm))\n")
        print(LinuxReport(records).text)
        talk("Raw results: \(writer.path)")
        if records.contains(where: { $0.failure != nil }) { throw ExitCode(1) }
    }
}
