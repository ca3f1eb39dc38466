import Foundation
import Testing

/// What the program says to command lines that are wrong, and what it does without a VM.
@Suite(.timeLimit(.minutes(2))) struct UsageTests {
    @Test(arguments: [
        ["nonsense"], ["run"], ["run", "--name", "../x"], ["run", "--name", ""], ["run", "--name", "incoming-1"],
        ["run", "--name", "a", "--memory", "lots"], ["run", "--name", "a", "--memory", "1.5"],
        ["run", "--name", "a", "--cpus", "0"], ["run", "--name", "a", "--rate", "-1"],
        ["run", "--name", "a", "--pattern", "zigzag"], ["run", "--name", "a", "--guest-options", "colour=red"],
        ["run", "--name", "a", "--memory-backing", "paper"],
        ["run", "--name", "a", "--serial", "stdio", "--report", "-"],
        ["status"], ["status", "../x"], ["pause", "a/b"], ["receive"], ["receive", "--listen", "host:port:more"],
        ["receive", "--listen", "0.0.0.0:1"], ["receive", "--listen", "[::]:1"],
        ["receive", "--listen", "192.0.2.1:1"],
        ["receive", "--listen", "70000"], ["receive", "--listen", "unix:"],
        ["receive", "--listen", "1", "--name", "../x"], ["receive", "--listen", "1", "--preallocate", "3M"],
        ["send", "a"], ["send", "a", "--to", "nowhere"], ["send", "a", "--to", "h:1", "--lanes", "17"],
        ["send", "a", "--to", "h:1", "--max-downtime", "20"], ["send", "a", "--to", "h:1", "--max-downtime", "0ms"],
        ["send", "a", "--to", "h:1", "--max-bandwidth", "1"], ["send", "a", "--to", "h:1", "--policy", "best"],
        ["set", "a"], ["resolve", "a", "keep"], ["resolve", "a", "both", "--i-know-the-other-side-is-dead"],
        ["completions", "tcsh"],
    ])
    func refuses(_ arguments: [String]) throws {
        let result = try Tool().start(arguments).wait()
        #expect(result.status == ExitCode.named("usage"), "\(result)")
        #expect(result.output.isEmpty)
        #expect(result.errors.contains("Error: ") && result.errors.count < 1500)
    }

    @Test func saysWhyItDoesNotListenBeyondThisMachine() throws {
        let result = try Tool().run("receive", "--listen", "0.0.0.0:1")
        #expect(result.errors.contains("--insecure"))
        #expect(result.errors.contains("unencrypted"))
    }

    @Test func documentsItsExitCodes() {
        #expect(ExitCode.documented.count == 20)
        #expect(Set(ExitCode.documented.values).count == 20)
    }

    @Test func helps() throws {
        let tool = try Tool()
        let help = try tool.run("--help")
        #expect(help.status == 0)
        for command in [
            "run", "ps", "status", "pause", "resume", "stop", "console", "report", "receive", "send", "cancel", "set",
            "resolve",
            "inspect", "doctor", "selftest-image", "completions",
        ] {
            #expect(help.output.contains("\n  \(command) "), "\(command)")
            #expect(try tool.run("help", command).output.contains("USAGE: migratectl \(command)"))
        }
        #expect(try tool.run("completions", "bash").output.contains("_migratectl"))
        #expect(try tool.run("--version").output.hasPrefix("migratectl "))
    }

    @Test(arguments: [
        ["status", "ghost"], ["pause", "ghost"], ["resume", "ghost"], ["stop", "ghost"], ["console", "ghost"],
        ["report", "ghost"], ["cancel", "ghost"], ["set", "ghost", "--max-time", "1s"],
        ["send", "ghost", "--to", "h:1"],
        ["resolve", "ghost", "keep", "--i-know-the-other-side-is-dead"], ["resolve", "ghost", "finish"],
        ["report", "ghost", "--verify"],
    ])
    func knowsNoSuchVM(_ arguments: [String]) throws {
        let result = try Tool().start(arguments).wait()
        #expect(result.status == ExitCode.named("vmNotFound"), "\(result)")
        #expect(result.errors.hasPrefix("migratectl: No VM named ghost runs here"))
        #expect(result.errors.split(separator: "\n").count == 1)
    }

    @Test func listsNothing() throws {
        let tool = try Tool()
        #expect(try tool.run("ps", "--json").output.filter { !$0.isWhitespace } == "[]")
        #expect(try tool.run("ps").output.isEmpty)
        #expect(!FileManager.default.fileExists(atPath: tool.runtimeDirectory))
    }

    @Test(arguments: ["/nowhere/kvm", "/dev/null"])
    func saysThatThereIsNoKVM(_ device: String) throws {
        let tool = try Tool()
        let run = try tool.run("run", "--name", "a", "--kvm-device", device)
        #expect(run.status == ExitCode.named("noKVM"), "\(run)")
        #expect(run.errors.contains(device) && run.errors.contains("migratectl doctor"))
        #expect(run.errors.split(separator: "\n").count == 1)
        // Nothing is left behind.
        #expect(try FileManager.default.contentsOfDirectory(atPath: tool.runtimeDirectory) == [])
        let receive = try tool.start("receive", "--listen", "0", "--kvm-device", device).wait()
        #expect(receive.status == ExitCode.named("noKVM"), "\(receive)")
        let doctor = try tool.run("doctor", "--json", "--kvm-device", device)
        #expect(doctor.status == ExitCode.named("noKVM"))
        #expect(try doctor.json()["isUsable"] as? Bool == false)
    }

    @Test func doctorSaysWhatEachMissingThingCosts() throws {
        let report = try Tool().run("doctor", "--json").json()
        let sections = report["sections"] as? [[String: Any]] ?? []
        #expect(sections.count >= 6)
        for section in sections {
            for finding in section["findings"] as? [[String: Any]] ?? [] {
                let status = finding["status"] as? String
                #expect(["good", "note", "poor", "missing"].contains(status))
                if status == "poor" || status == "missing" {
                    #expect(finding["cost"] is String && finding["remedy"] is String, "\(finding)")
                }
            }
        }
    }

    @Test func inspectsWhatIsNoStream() throws {
        let tool = try Tool()
        let garbage = tool.directory + "/garbage"
        try Data((0..<100_000).map { _ in UInt8.random(in: 0...255) }).write(to: URL(filePath: garbage))
        #expect(try tool.run("inspect", garbage).status == ExitCode.named("damaged"))
        #expect(try tool.run("inspect", "/dev/null").status == ExitCode.named("damaged"))
        let absent = try tool.run("inspect", "/nowhere")
        #expect(absent.status == ExitCode.named("failure"))
        #expect(absent.errors.contains("/nowhere"))
    }

    @Test func writesTheGuestsImage() throws {
        let tool = try Tool()
        let file = tool.directory + "/guest.elf"
        #expect(try tool.run("selftest-image", file).status == 0)
        let image = try Data(contentsOf: URL(filePath: file))
        #expect(image.starts(with: [0x7f, 0x45, 0x4c, 0x46]))
        #expect(try tool.run("selftest-image", "-").status == 0)
        let full = try tool.run("selftest-image", "/dev/full")
        #expect(full.status == ExitCode.named("failure"))
        #expect(full.errors == "migratectl: cannot write /dev/full: No space left on device\n")
        #expect(try tool.run("selftest-image", "/nowhere/x").status == ExitCode.named("failure"))
    }
}
