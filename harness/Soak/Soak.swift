/// migratectl-soak: one VM migrates back and forth between fresh processes, N times, while its guest writes and checks.

import ArgumentParser
import CHarness
import Foundation
import HarnessSupport

@main
struct Soak: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "harness/soak",
        abstract: "Migrates one busy VM again and again, and looks for anything lost or leaked.",
        discussion: """
            Each hop goes into a new process over TCP or a UNIX socket. After each the guest is asked for its verdict; every \
            --verify-every hops it checks all its pages. Every --cancel-every hops an attempt is cancelled at a random \
            moment first, and the source must be as it was. Descriptors, threads and mappings are compared from hop to hop. \
            The random choices come from the seed: the same seed repeats them.
            """)

    @Option(help: "Migrations.") var count = 500
    @Option(help: "Guest memory in MiB.") var memory = 128
    @Option(help: "vCPUs.") var vcpus = 2
    @Option(help: "What the guest writes, in MB/s.") var rate = 200
    @Option(parsing: .upToNextOption, help: "Lanes; several are used in turn.") var lanes: [Int] = [1, 2]
    @Option(help: "anon, memfd or hugetlb.") var backing = "anon"
    @Option(help: "bitmap or ring.") var tracker = "bitmap"
    @Option(parsing: .upToNextOption, help: "tcp, unix; several are used in turn.") var transport = ["tcp", "unix"]
    @Option(help: "Hops between two checks of all pages.") var verifyEvery = 5
    @Option(help: "Hops between two cancelled attempts; 0 for none.") var cancelEvery = 10
    @Option(help: "The seed of all random choices.") var seed: UInt64 = 1
    @Option(help: "Go on at this hop of the same seed (with a new VM).") var resumeAt = 1
    @Option(help: "The built migratectl.") var migratectl: String?

    func validate() throws {
        if count < 1 || resumeAt < 1 || resumeAt > count {
            throw ValidationError("--resume-at goes from 1 to --count.")
        }
        if lanes.isEmpty || lanes.contains(where: { !(1...16).contains($0) }) {
            throw ValidationError("--lanes goes from 1 to 16.")
        }
        if transport.isEmpty || transport.contains(where: { $0 != "tcp" && $0 != "unix" }) {
            throw ValidationError("--transport is tcp or unix.")
        }
        if verifyEvery < 1 || cancelEvery < 0 {
            throw ValidationError("--verify-every starts at 1, --cancel-every at 0.")
        }
    }

    func run() throws {
        harness_catch_signals()
        let own = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
        let program = try Migratectl(
            program: migratectl ?? (own as NSString).deletingLastPathComponent + "/migratectl")
        let folder = try ScratchFolder()
        let options = VMOptions(
            memoryMiB: memory, vcpus: vcpus, guestOptions: "rate=\(rate) seed=\(seed)", backing: backing,
            tracker: tracker)
        var journey = try Journey(program, options, folder: folder, soak: self)
        do {
            for hop in resumeAt...count { try journey.hop(hop) }
            try journey.finish()
        } catch {
            let text =
                "Failed at hop \(journey.current) of \(count), seed \(seed): \(error)\n"
                + "Again from there: the same command with --resume-at \(journey.current)\n"
            FileHandle.standardError.write(Data(text.utf8))
            throw ExitCode(1)
        }
    }
}
