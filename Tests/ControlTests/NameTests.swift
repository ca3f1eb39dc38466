import Control
import Foundation
import Testing

@Suite struct VMNameTests {
    @Test(arguments: ["a", "vm1", "Web-01.prod_x", "0", String(repeating: "x", count: 64)])
    func accepts(_ text: String) throws {
        #expect(try VMName(text).description == text)
    }

    @Test(arguments: [
        "", "../x", "..", ".", ".hidden", "-rf", "a/b", "a b", "a\0b", "a\nb", "ä", "vm\u{1b}[31m", "incoming-12",
        String(repeating: "x", count: 65), "a\u{202e}b",
    ])
    func refuses(_ text: String) {
        let error = #expect(throws: ControlError.self) { try VMName(text) }
        #expect(error?.code == .badName)
        // What is hostile must not reach a terminal as it is.
        #expect(error?.message.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value < 0x7f } == true)
        #expect((error?.message.count ?? 0) < 300)
    }
}

@Suite struct RuntimeDirectoryTests {
    @Test func isMadePrivate() throws {
        let scratch = try Scratch()
        let mode = try FileManager.default.attributesOfItem(atPath: scratch.directory.path)[.posixPermissions] as? Int
        #expect(mode == 0o700)
    }

    @Test func refusesADirectoryOpenToOthers() throws {
        let scratch = try Scratch()
        chmod(scratch.directory.path, 0o755)
        let error = #expect(throws: ControlError.self) { try scratch.directory.prepare() }
        #expect(error?.code == .runtimeDirectory)
        #expect(error?.message.contains("755") == true)
    }

    @Test func refusesALinkAndAFile() throws {
        let scratch = try Scratch()
        let link = scratch.directory.path + "/link"
        symlink(scratch.directory.path, link)
        #expect(throws: ControlError.self) { try RuntimeDirectory(path: link).prepare() }
        let file = scratch.directory.path + "/file"
        close(open(file, O_CREAT | O_WRONLY, 0o600))
        #expect(throws: ControlError.self) { try RuntimeDirectory(path: file).prepare() }
        #expect(throws: ControlError.self) { try RuntimeDirectory(path: "relative/path") }
    }

    @Test func askingMakesNoDirectory() throws {
        let directory = try RuntimeDirectory(path: "/tmp/mct-absent-\(getpid())")
        #expect(try directory.runningNames().isEmpty)
        #expect(!FileManager.default.fileExists(atPath: directory.path))
    }
}

@Suite struct NameClaimTests {
    @Test func holdsANameOnce() throws {
        let scratch = try Scratch()
        let first = try NameClaim(VMName("vm1"), in: scratch.directory)
        let error = #expect(throws: ControlError.self) { try NameClaim(VMName("vm1"), in: scratch.directory) }
        #expect(error?.code == .nameTaken)
        #expect(error?.message.contains("(process \(getpid()))") == true)
        first.release()
        #expect(try FileManager.default.contentsOfDirectory(atPath: scratch.directory.path) == [])
        _ = try NameClaim(VMName("vm1"), in: scratch.directory)
    }

    /// A killed process leaves its files; its lock is gone with it.
    @Test func cleansUpAfterADeadProcess() throws {
        let scratch = try Scratch()
        let directory = scratch.directory
        for name in ["dead.lock", "dead.sock", "dead.console"] {
            close(open(directory.path + "/" + name, O_CREAT | O_WRONLY, 0o600))
        }
        #expect(try directory.runningNames().isEmpty)
        #expect(try FileManager.default.contentsOfDirectory(atPath: directory.path) == [])

        close(open(directory.path + "/dead.lock", O_CREAT | O_WRONLY, 0o600))
        close(open(directory.path + "/dead.sock", O_CREAT | O_WRONLY, 0o600))
        let claim = try NameClaim(VMName("dead"), in: directory)
        _ = try ControlServer(claim: claim, vm: StandInVM())
        #expect(directory.isAlive(claim.name))
    }

    /// A VM between its lock and its socket is starting, not dead.
    @Test func listingDoesNotDisturbAStartingVM() throws {
        let scratch = try Scratch()
        let claim = try NameClaim(VMName("vm1"), in: scratch.directory)
        #expect(try scratch.directory.runningNames().isEmpty)
        #expect(FileManager.default.fileExists(atPath: scratch.directory.lockPath(of: claim.name)))
    }

    /// Many processes want one name: one gets it. Threads do as well, since flock belongs to an open file.
    @Test func oneOfManyWins() async throws {
        let scratch = try Scratch()
        let directory = scratch.directory
        for _ in 0..<20 {
            let winners = await withTaskGroup(of: NameClaim?.self) { group in
                for _ in 0..<8 { group.addTask { try? NameClaim(VMName("vm1"), in: directory, patience: .zero) } }
                return await group.reduce(into: [NameClaim]()) { if let claim = $1 { $0.append(claim) } }
            }
            #expect(winners.count == 1)
            winners.forEach { $0.release() }
        }
    }

    @Test func renamingKeepsTheSocketAlive() throws {
        let test = try TestServer()
        try test.claim.rename(to: VMName("vm2"))
        #expect(try test.scratch.directory.runningNames().map(\.description) == ["vm2"])
        #expect(try ControlClient(VMName("vm2"), in: test.scratch.directory).status().state == .running)
        #expect(throws: ControlError.self) { try ControlClient(VMName("vm1"), in: test.scratch.directory).status() }
        let other = try NameClaim(VMName("vm1"), in: test.scratch.directory)
        let error = #expect(throws: ControlError.self) { try test.claim.rename(to: VMName("vm1")) }
        #expect(error?.code == .nameTaken)
        #expect(test.claim.name.description == "vm2")
        other.release()
    }

    @Test func refusesAPathThatIsTooLong() throws {
        let scratch = try Scratch()
        let deep = try RuntimeDirectory(path: scratch.directory.path + "/" + String(repeating: "d", count: 80))
        let error = #expect(throws: ControlError.self) { try NameClaim(VMName("vm1"), in: deep) }
        #expect(error?.code == .badName)
        #expect(error?.message.contains("too long") == true)
    }
}
