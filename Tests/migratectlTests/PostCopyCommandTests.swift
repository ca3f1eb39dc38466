import Foundation
import Testing

/// The VM first, its pages after it, with the built program.
@Suite(.enabled(if: hasKVM, "/dev/kvm cannot be opened"), .serialized, .timeLimit(.minutes(10)))
struct PostCopyCommandTests {
    @Test func movesTheVMFirst() throws {
        let tool = try Tool()
        let vm = try tool.startVM("vm1", "--rate", "20", "--working-set", "16M")
        let (receiver, address) = try tool.startReceiver()
        let sent = try tool.start("send", "vm1", "--to", address, "--mode", "postcopy", "--json").wait(120)
        #expect(sent.status == 0, "\(sent.errors)")
        let last = sent.output.split(separator: "\n").last.map { Data($0.utf8) } ?? Data()
        let status = try JSONSerialization.jsonObject(with: last) as? [String: Any]
        let report = status?["report"] as? [String: Any]
        let paging = report?["paging"] as? [String: Any]
        #expect(paging?["pagesLeft"] as? Int == report?["pagesTotal"] as? Int, "\(String(describing: report))")
        #expect(vm.wait().status == ExitCode.named("moved"))
        #expect(tool.waitFor { (try? tool.run("ps", "--names").output) == "vm1\n" })
        let checked = try tool.run("report", "vm1", "--verify", "--json")
        #expect(checked.status == 0, "\(checked)")
        #expect(((try checked.json()["verifications"] as? [[String: Any]])?.last?["badPageCount"]) as? Int == 0)
        #expect(try tool.run("stop", "vm1").status == 0)
        #expect(receiver.wait().status == 0)
    }

    @Test func switchesOnlyWhatMayBeSwitched() throws {
        let tool = try Tool()
        let vm = try tool.startVM("vm1")
        #expect(try tool.run("switch", "vm1").status == ExitCode.named("wrongState"))
        #expect(try tool.run("send", "vm1", "--to", "1", "--mode", "sideways").status == ExitCode.named("usage"))
        let (receiver, address) = try tool.startReceiver()
        let send = try tool.start(
            "send", "vm1", "--to", address, "--mode", "hybrid", "--max-bandwidth", "4M", "--lanes", "1")
        #expect(tool.waitFor { (try? Self.progress(tool, "vm1")?["pagesSent"] as? Int ?? 0) ?? 0 > 100 })
        #expect(try tool.run("switch", "vm1").status == 0)
        _ = try tool.run("set", "vm1", "--max-bandwidth", "none")
        let sent = send.wait(120)
        #expect(sent.status == 0, "\(sent)")
        #expect(sent.output.contains("the switch was asked for"), "\(sent.output)")
        #expect(vm.wait().status == ExitCode.named("moved"))
        receiver.signal(SIGTERM)
        #expect(receiver.wait().status == 0)
    }

    private static func progress(_ tool: Tool, _ name: String) throws -> [String: Any]? {
        let migration = try tool.run("status", name, "--json").json()["migration"] as? [String: Any]
        return migration?["progress"] as? [String: Any]
    }

    /// The source is killed while most pages are still there: the destination says that it waits, and ends as lost.
    @Test func saysThatTheVMIsLost() throws {
        let tool = try Tool()
        let vm = try tool.startVM("vm1", "--rate", "20", "--working-set", "16M")
        let (receiver, address) = try tool.startReceiver()
        let send = try tool.start(
            "send", "vm1", "--to", address, "--mode", "postcopy", "--max-bandwidth", "1M")
        let name = "incoming-\(receiver.process.processIdentifier)"
        func receiving() -> [String: Any]? {
            let status = try? tool.run("status", name, "--json").json()
            return (status?["migration"] as? [String: Any])?["receiving"] as? [String: Any]
        }
        #expect(
            tool.waitFor { receiving()?["pagesMissing"] as? Int ?? 0 > 0 && receiving()?["isRunning"] as? Bool == true }
        )
        vm.signal(SIGKILL)
        _ = vm.wait()
        #expect(tool.waitFor(seconds: 40) { (receiving()?["doubt"] as? String)?.contains("pages") == true })
        #expect(try tool.run("status", name, "--json").json()["state"] as? String == "doubt")
        _ = send.wait()
        #expect(try tool.run("stop", name).status == 0)
        let ended = receiver.wait(60)
        #expect(ended.status == ExitCode.named("lost"), "\(ended)")
        #expect(ended.errors.contains("is lost"), "\(ended.errors)")
    }
}
