import Foundation
import Testing

/// VMs of the built program, without a move.
@Suite(.enabled(if: hasKVM, "/dev/kvm cannot be opened"), .serialized, .timeLimit(.minutes(5)))
struct LifeTests {
    @Test func runsPausesReportsAndStops() throws {
        let tool = try Tool()
        let vm = try tool.startVM("vm1", "--rate", "5")
        let listed =
            try JSONSerialization.jsonObject(with: Data(tool.run("ps", "--json").output.utf8)) as? [[String: Any]]
        #expect(listed?.map { $0["name"] as? String } == ["vm1"])
        #expect(try tool.run("ps", "--names").output == "vm1\n")

        #expect(try tool.run("resume", "vm1").status == ExitCode.named("wrongState"))
        #expect(try tool.run("pause", "vm1").status == 0)
        #expect(try tool.run("status", "vm1", "--json").json()["state"] as? String == "paused")
        #expect(try tool.run("pause", "vm1").status == ExitCode.named("wrongState"))
        #expect(try tool.run("report", "vm1").status == ExitCode.named("wrongState"))
        #expect(try tool.run("send", "vm1", "--to", "1").status == ExitCode.named("wrongState"))
        #expect(try tool.run("resume", "vm1").status == 0)

        #expect(try tool.run("cancel", "vm1").status == ExitCode.named("wrongState"))
        #expect(try tool.run("set", "vm1", "--max-time", "1s").status == ExitCode.named("wrongState"))
        #expect(
            try tool.run("resolve", "vm1", "keep", "--i-know-the-other-side-is-dead").status
                == ExitCode.named("wrongState"))

        let report = try tool.run("report", "vm1", "--verify", "--json")
        #expect(report.status == 0, "\(report)")
        let verifications = try report.json()["verifications"] as? [[String: Any]]
        #expect(verifications?.last?["badPageCount"] as? Int == 0)

        let second = try tool.run("run", "--name", "vm1")
        #expect(second.status == ExitCode.named("nameTaken"))
        #expect(second.errors.contains("process \(vm.process.processIdentifier)"))

        #expect(try tool.run("stop", "vm1").status == 0)
        #expect(vm.wait().status == 0)
        #expect(try FileManager.default.contentsOfDirectory(atPath: tool.runtimeDirectory) == ["vm1.report.json"])
        // What it left behind can still be read.
        let left = try tool.run("report", "vm1", "--json")
        #expect(left.status == 0)
        #expect(left.errors.contains("vm1 was stopped"))
    }

    @Test(arguments: [SIGINT, SIGTERM])
    func aSignalStopsTheVM(_ signal: Int32) throws {
        let tool = try Tool()
        let vm = try tool.startVM("vm1")
        vm.signal(signal)
        let result = vm.wait()
        #expect(result.status == 0)
        #expect(result.errors.contains("vm1 was stopped"))
        #expect(try FileManager.default.contentsOfDirectory(atPath: tool.runtimeDirectory) == ["vm1.report.json"])
    }

    @Test func aKilledVMLeavesNoTrace() throws {
        let tool = try Tool()
        let vm = try tool.startVM("vm1")
        vm.signal(SIGKILL)
        _ = vm.wait()
        #expect(FileManager.default.fileExists(atPath: tool.runtimeDirectory + "/vm1.sock"))
        #expect(try tool.run("status", "vm1").status == ExitCode.named("vmNotFound"))
        #expect(try tool.run("ps").output.isEmpty)
        #expect(try FileManager.default.contentsOfDirectory(atPath: tool.runtimeDirectory) == [])
        // And its name is free.
        let again = try tool.startVM("vm1")
        again.signal(SIGTERM)
        #expect(again.wait().status == 0)
    }

    @Test func endsWithItsGuest() throws {
        let tool = try Tool()
        let report = tool.directory + "/report.json"
        let result = try tool.start(
            "run", "--name", "vm1", "--memory", "64M", "--seconds", "1", "--report", report, "--serial", "stdio"
        ).wait()
        #expect(result.status == 0, "\(result.errors)")
        #expect(result.output.contains("selftest: event=boot"))
        #expect(result.output.contains("verdict=pass"))
        let json = try JSONSerialization.jsonObject(with: Data(contentsOf: URL(filePath: report))) as? [String: Any]
        #expect(json?["ended"] as? String == "guestEnded")
        #expect((json?["guest"] as? [String: Any])?["exitCode"] as? Int == 0)
    }

    @Test func saysWhenItsReportIsLost() throws {
        let tool = try Tool()
        let result = try tool.start(
            "run", "--name", "vm1", "--memory", "64M", "--seconds", "1", "--report", "/dev/full"
        ).wait()
        #expect(result.status == ExitCode.named("failure"))
        #expect(result.errors.contains("the report is lost: cannot write /dev/full: No space left on device"))
    }

    @Test func showsItsConsole() throws {
        let tool = try Tool()
        let vm = try tool.startVM("vm1")
        let pipe = Pipe()
        let console = try tool.start("console", "vm1", input: pipe.fileHandleForReading)
        // What was said before is shown again.
        #expect(tool.waitFor { console.outputSoFar.contains("selftest: event=ready") })
        try pipe.fileHandleForWriting.write(contentsOf: Data("r".utf8))
        #expect(tool.waitFor { console.outputSoFar.contains("event=report") })
        vm.signal(SIGTERM)
        #expect(console.wait().errors.contains("has ended here"))
        _ = vm.wait()
    }

    @Test func refusesWhatNoMachineCanBe() throws {
        let tool = try Tool()
        for arguments in [["--memory", "4096"], ["--memory", "100000000T"], ["--cpus", "100000"]] {
            let result = try tool.start(["run", "--name", "vm1"] + arguments).wait()
            #expect(
                [ExitCode.named("usage"), ExitCode.named("failure")].contains(result.status), "\(arguments) \(result)")
            #expect(!result.errors.isEmpty)
        }
    }
}
