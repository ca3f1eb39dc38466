/// Sections as they were written when their version was new: every later reader must read them, and say the same of
/// them. The files stay for good; a new version gets files of its own.

import Foundation
import Testing
import VMState

private let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Golden/v1")
private let isWriting = ProcessInfo.processInfo.environment["MIGRATECTL_WRITE_GOLDEN"] != nil
/// A section, or the CPU policy.
private let names = ["vcpu.0", "irqchip", "pit", "clock", "serial.0", "virtio.0", "policy"]

struct GoldenTests {
    private func describe(_ name: String, _ bytes: [UInt8]) throws -> StateDescription {
        guard name != "policy" else { return try CPUPolicy(decoding: bytes).stateDescription }
        return try #require(try StateDescription(section: name, version: 1, bytes: bytes))
    }

    @Test(arguments: names)
    func isReadAsEver(name: String) throws {
        let bytes = [UInt8](try Data(contentsOf: folder.appending(path: name + ".bin")))
        let expected = try String(contentsOf: folder.appending(path: name + ".txt"), encoding: .utf8)
        #expect(try describe(name, bytes).description + "\n" == expected)
    }

    /// Made once for each version, on a host with KVM.
    @Test(.enabled(if: isWriting, "writes golden files, only with MIGRATECTL_WRITE_GOLDEN set"))
    func write() throws {
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        var files = HostileStateTests.samples
        files.append(("policy", try TestVM().policy.encoded()))
        #expect(files.map(\.name) == names)
        for (name, bytes) in files {
            try Data(bytes).write(to: folder.appending(path: name + ".bin"))
            let text = try describe(name, bytes).description + "\n"
            try Data(text.utf8).write(to: folder.appending(path: name + ".txt"))
        }
    }
}
