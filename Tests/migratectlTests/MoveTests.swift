import Foundation
import Testing

/// Moves with the built program, and everything that may come between.
@Suite(.enabled(if: hasKVM, "/dev/kvm cannot be opened"), .serialized, .timeLimit(.minutes(10)))
struct MoveTests {
    @Test func movesAVMAndItsName() throws {
        let tool = try Tool()
        let vm = try tool.startVM("vm1", "--rate", "5", "--working-set", "16M")
        let (receiver, address) = try tool.startReceiver()
        let receiverName = "incoming-\(receiver.process.processIdentifier)"
        #expect(try tool.run("status", receiverName, "--json").json()["state"] as? String == "receiving")

        let record = tool.directory + "/record"
        let sent = try tool.start("send", "vm1", "--to", address, "--json", "--record", record).wait(120)
        #expect(sent.status == 0, "\(sent.errors)")
        let last = sent.output.split(separator: "\n").last.map { Data($0.utf8) } ?? Data()
        let status = try JSONSerialization.jsonObject(with: last) as? [String: Any]
        #expect(status?["state"] as? String == "completed")
        let report = status?["report"] as? [String: Any]
        #expect(report?["digest"] is String)
        #expect((report?["downtimeMilliseconds"] as? Double ?? 0) > 0)
        #expect(vm.wait().status == ExitCode.named("moved"))

        // The receiver is the VM now, under its name.
        #expect(tool.waitFor { (try? tool.run("ps", "--names").output) == "vm1\n" })
        let after = try tool.run("status", "vm1", "--json").json()
        #expect(after["processID"] as? Int == Int(receiver.process.processIdentifier))
        #expect(after["guest"] as? String == "selftest")
        let checked = try tool.run("report", "vm1", "--verify", "--json")
        #expect(checked.status == 0, "\(checked)")
        #expect(((try checked.json()["verifications"] as? [[String: Any]])?.last?["badPageCount"]) as? Int == 0)

        for stream in ["control.stream", "lane-0.stream"] {
            let inspected = try tool.start("inspect", "--json", record + "/" + stream).wait(120)
            #expect(inspected.output.contains("\"isOptional\""), "\(stream)")
        }
        #expect(try tool.run("stop", "vm1").status == 0)
        #expect(receiver.wait().status == 0)
        #expect(try FileManager.default.contentsOfDirectory(atPath: tool.runtimeDirectory) == ["vm1.report.json"])
    }

    @Test func movesUnderAnotherNameOverAUnixSocket() throws {
        let tool = try Tool()
        let vm = try tool.startVM("vm1")
        let socket = tool.directory + "/receiver.sock"
        // A receiver that was killed has left its socket.
        let dead = try tool.start("receive", "--listen", "unix:" + socket)
        #expect(tool.waitFor { FileManager.default.fileExists(atPath: socket) })
        dead.signal(SIGKILL)
        _ = dead.wait()
        let receiver = try tool.start(
            "receive", "--listen", "unix:" + socket, "--name", "vm2", "--preallocate", "64M")
        #expect(tool.waitFor { receiver.errorsSoFar.contains("waiting for a VM") }, "\(receiver.errorsSoFar)")
        let sent = try tool.start("send", "vm1", "--to", "unix:" + socket).wait(120)
        #expect(sent.status == 0, "\(sent)")
        #expect(sent.output.contains("agreed by both sides"))
        #expect(vm.wait().status == ExitCode.named("moved"))
        #expect(try tool.run("ps", "--names").output == "vm2\n")
        // It takes one VM, and then nobody waits at its door in vain.
        #expect(tool.waitFor { !FileManager.default.fileExists(atPath: socket) })
        receiver.signal(SIGTERM)
        #expect(receiver.wait().status == 0)
    }

    @Test func saysThatNobodyListens() throws {
        let tool = try Tool()
        let vm = try tool.startVM("vm1")
        let sent = try tool.start("send", "vm1", "--to", "unix:/nowhere/x").wait(60)
        #expect(sent.status == ExitCode.named("unreachable"), "\(sent)")
        #expect(sent.errors.contains("vm1 runs on here"))
        #expect(try tool.run("send", "vm1", "--to", "192.0.2.1:1").errors.contains("--insecure"))
        #expect(try tool.run("status", "vm1", "--json").json()["state"] as? String == "running")
        vm.signal(SIGTERM)
        #expect(vm.wait().status == 0)
    }

    @Test func cancelsByASignal() throws {
        try withASlowMove { tool, send, receiver in
            send.signal(SIGINT)
            let result = send.wait()
            #expect(result.status == ExitCode.named("cancelled"), "\(result)")
            #expect(receiver.wait().status == ExitCode.named("cancelled"))
        }
    }

    @Test func cancelsByCommandAndShowsLimits() throws {
        try withASlowMove { tool, send, receiver in
            #expect(try tool.run("ps").output.contains("sending"))
            #expect(try tool.start("send", "vm1", "--to", "1").wait().status == ExitCode.named("wrongState"))
            #expect(try tool.run("pause", "vm1").status == ExitCode.named("wrongState"))
            let limits = try tool.run("set", "vm1", "--max-downtime", "77ms", "--json").json()
            #expect(limits["maxDowntimeMilliseconds"] as? Double == 77)
            #expect(limits["maxBytesPerSecond"] as? Int == 1 << 20)
            #expect(try tool.run("cancel", "vm1").status == 0)
            #expect(send.wait().status == ExitCode.named("cancelled"))
            #expect(receiver.wait().status == ExitCode.named("cancelled"))
        }
    }

    @Test func goesOnWithoutTheSendCommand() throws {
        try withASlowMove { tool, send, receiver in
            send.signal(SIGKILL)
            _ = send.wait()
            let migration = try tool.run("status", "vm1", "--json").json()["migration"] as? [String: Any]
            #expect(migration?["state"] as? String == "active")
            // The cap holds: a MiB a second, and the stripe of 2 MiB that each lane has in hand.
            let progress = migration?["progress"] as? [String: Any]
            let seconds = progress?["elapsedSeconds"] as? Double ?? 0
            #expect(progress?["bytesSent"] as? Double ?? .infinity < Double(1 << 20) * (seconds * 1.1 + 5))
            #expect(try tool.run("cancel", "vm1").status == 0)
        }
    }

    @Test func noticesADeadReceiver() throws {
        try withASlowMove { tool, send, receiver in
            receiver.signal(SIGKILL)
            let result = send.wait(30)
            #expect(result.status == ExitCode.named("peerLost"), "\(result)")
        }
    }

    @Test func aReceiverNoticesADeadSender() throws {
        let tool = try Tool()
        let vm = try tool.startVM("vm1")
        let (receiver, address) = try tool.startReceiver()
        let send = try tool.start("send", "vm1", "--to", address, "--max-bandwidth", "1M")
        #expect(tool.waitFor { send.errorsSoFar.contains("round 0") })
        vm.signal(SIGKILL)
        // The receiver keeps what it has for ten seconds, in case the source comes back.
        #expect(receiver.wait(60).status == ExitCode.named("peerLost"))
        #expect(send.wait().status == ExitCode.named("unreachable"))
    }

    @Test func refusesWhatDoesNotFit() throws {
        let tool = try Tool()
        let vm = try tool.startVM("vm1")
        // No huge pages are reserved for so much, if any.
        let free = try String(
            contentsOfFile: "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", encoding: .utf8)
        guard (Int(free.trimmingCharacters(in: .whitespacesAndNewlines)) ?? 0) < 32 else { return }
        let (receiver, address) = try tool.startReceiver("--memory-backing", "hugetlb")
        let sent = try tool.start("send", "vm1", "--to", address).wait(60)
        #expect(sent.status == ExitCode.named("refused"), "\(sent)")
        #expect(receiver.process.isRunning)
        receiver.signal(SIGTERM)
        #expect(receiver.wait().status == ExitCode.named("cancelled"))
        vm.signal(SIGTERM)
        #expect(vm.wait().status == 0)
    }

    @Test func saysThatAPortIsInUse() throws {
        let tool = try Tool()
        let (receiver, address) = try tool.startReceiver()
        let second = try tool.run("receive", "--listen", address)
        #expect(second.status == ExitCode.named("cannotListen"), "\(second)")
        #expect(second.errors.contains(address))
        receiver.signal(SIGINT)
        #expect(receiver.wait().status == ExitCode.named("cancelled"))
        #expect(try FileManager.default.contentsOfDirectory(atPath: tool.runtimeDirectory) == [])
    }

    /// A move that is in its first round and stays there; afterwards the VM must run on, and be stoppable.
    @Test func endsARoundThatTakesTooLong() throws {
        let tool = try Tool()
        let vm = try tool.startVM("vm1")
        let (receiver, address) = try tool.startReceiver()
        let sent = try tool.start("send", "vm1", "--to", address, "--max-bandwidth", "1M", "--max-time", "1s").wait(60)
        #expect(sent.status == ExitCode.named("notConverging"), "\(sent)")
        #expect(sent.errors.contains("time limit") && sent.errors.contains("vm1 runs on here"), "\(sent)")
        #expect(receiver.wait().status == ExitCode.named("cancelled"))
        #expect(try tool.run("report", "vm1", "--verify").status == 0)
        vm.signal(SIGTERM)
        #expect(vm.wait().status == 0)
    }

    private func withASlowMove(_ body: (Tool, Tool.Running, Tool.Running) throws -> Void) throws {
        let tool = try Tool()
        let vm = try tool.startVM("vm1")
        let (receiver, address) = try tool.startReceiver()
        let send = try tool.start("send", "vm1", "--to", address, "--max-bandwidth", "1M")
        try #require(tool.waitFor { send.errorsSoFar.contains("round 0") }, "\(send.errorsSoFar)")
        try body(tool, send, receiver)
        #expect(
            tool.waitFor {
                let status = try? tool.run("status", "vm1", "--json").json()
                let migration = status?["migration"] as? [String: Any]
                return status?["state"] as? String == "running" && migration?["state"] as? String != "active"
            })
        let checked = try tool.run("report", "vm1", "--verify")
        #expect(checked.status == 0, "\(checked)")
        vm.signal(SIGTERM)
        #expect(vm.wait().status == 0)
        _ = receiver.wait()
    }
}
