/// The guest of harness/guest, whoever runs it: what it is given, and what is read of it from outside.

import Foundation
import HarnessSupport

struct LinuxGuest: Sendable {
    var kernel: String
    var initrd: String
    var memoryMiB: Int
    var vcpus: Int

    let commandLine = "console=ttyS0 quiet panic=-1 mk.role=idle"

    /// Starts a contender's process and waits until the guest idles; notes how long it took to reach init.
    func boot(_ record: inout LinuxRecord, _ start: () throws -> (Child, LocalSocket)) throws -> (Child, LocalSocket) {
        let begun = monotonicNanoseconds()
        let (child, console) = try start()
        try waitForLine("mk: init", on: console, of: child)
        record.bootSeconds = Double(monotonicNanoseconds() - begun) / 1e9
        try waitForLine("mk: ready", on: console, of: child)
        // What the kernel does after its start is not what an idle guest does.
        try pause(milliseconds: 3000)
        return (child, console)
    }

    /// Asks a guest that has moved how it is.
    func check(_ console: LocalSocket, of child: Child) throws {
        try console.write("report\n")
        try waitForLine("mk: so far pass", on: console, of: child)
    }

    private func waitForLine(_ text: String, on console: LocalSocket, of child: Child) throws {
        let end = monotonicNanoseconds() + 240_000_000_000
        while monotonicNanoseconds() < end {
            guard let line = try console.line(seconds: 5) else {
                if !child.isRunning { throw child.failure("ended before its guest said '\(text)'") }
                continue
            }
            if line.contains(text) { return }
            if line.contains("mk: so far fail") { throw HarnessError("the guest of \(child.name) says: \(line)") }
        }
        throw child.failure("has a guest that did not say '\(text)' in 240 s")
    }

    /// Splits a process' resident memory into guest RAM, which is its largest mapping, and the rest.
    func noteMemory(of child: Child, into record: inout LinuxRecord) throws {
        guard let text = readText("/proc/\(child.pid)/smaps") else { throw child.failure("has no smaps") }
        var (size, ram, rest) = (0, 0, 0)
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ")
            guard words.count >= 2, let value = Int(words[1]) else { continue }
            if words[0] == "Size:" { size = value }
            if words[0] == "Rss:" {
                if size >= memoryMiB << 10 { ram += value } else { rest += value }
            }
        }
        record.touchedMiB = Double(ram) / 1024
        record.residentMiB = Double(rest) / 1024
    }
}
