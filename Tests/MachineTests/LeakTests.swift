/// What is left of a machine when it is gone: nothing. Counted in a process of its own, as other tests run beside this.

import CKVM
import Glibc
import KVM
import Machine
import Migrate
import Testing
import Units

/// Open descriptors, threads of ours and large mappings of this process. The runtime's own threads come and go, and so do
/// the stacks of 8 MiB that the C library keeps for the next thread.
private struct Holdings: Equatable, CustomStringConvertible {
    var descriptors: [String: Int] = [:]
    var threads: [String: Int] = [:]
    var guestMappings = 0

    init() {
        for name in Self.entries("/proc/self/fd") {
            var target = [CChar](repeating: 0, count: 256)
            guard readlink("/proc/self/fd/\(name)", &target, 255) > 0 else { continue }
            let text = String(decoding: target.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            // The directory being read is open while it is.
            if !text.hasPrefix("/proc/") { descriptors[text, default: 0] += 1 }
        }
        for name in Self.entries("/proc/self/task") {
            let thread = Self.file("/proc/self/task/\(name)/comm") ?? ""
            if ["vcpu", "console", "dirty"].contains(where: thread.hasPrefix) { threads[thread, default: 0] += 1 }
        }
        for line in (Self.file("/proc/self/maps") ?? "").split(separator: "\n") {
            let range = line.prefix { $0 != " " }.split(separator: "-").compactMap { UInt64($0, radix: 16) }
            // Guest RAM, memfds, and KVM's shared pages.
            let isLarge =
                range.count == 2 && range[1] - range[0] >= 16 << 20 && line.contains("rw-p") && !line.contains("[")
            if isLarge || line.contains("memfd:") || line.contains("kvm") { guestMappings += 1 }
        }
    }

    var description: String { "\(descriptors) \(threads) \(guestMappings) mappings" }

    private static func entries(_ path: String) -> [String] {
        guard let directory = opendir(path) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name.first != "." { names.append(name) }
        }
        return names
    }

    private static func file(_ path: String) -> String? {
        guard let file = fopen(path, "r") else { return nil }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var block = [UInt8](repeating: 0, count: 4096)
        while case let count = fread(&block, 1, block.count, file), count > 0 { bytes += block.prefix(count) }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// Lives of machines: stopped, dropped while running, never started, moved, ended by the guest, refused.
private func liveAndDie() throws {
    for backing in [MemoryBacking.anonymous, .memfd] {
        for tracker in DirtyTrackerKind.allCases {
            let host = HostOptions(memoryBacking: backing, dirtyTracker: tracker, serialSink: { _ in })
            let stopped = try Machine.selftest("rate=20", memory: 32 << 20, vcpus: 2, host: host)
            _ = try stopped.resume()
            stopped.stop()
            let dropped = try Machine.selftest("rate=20", memory: 32 << 20, host: host)
            _ = try dropped.resume()
            _ = try Machine.selftest("", memory: 32 << 20, host: host)
            let source = try Machine.selftest("rate=20", memory: 32 << 20, vcpus: 2, host: host)
            _ = try source.resume()
            let target = try move(source, host: host)
            withExtendedLifetime(target) {}
            let ended = try Machine.tiny([0x0F, 0x0B], host: host)
            _ = try ended.resume()
            _ = ended.waitForOutcome()
            _ = try? Machine.selftest(String(repeating: "x", count: 65536), memory: 32 << 20, host: host)
        }
    }
}

@Suite(.enabled(if: hasKVM, noKVM))
struct LeakTests {
    @Test func nothingIsLeft() async {
        await #expect(processExitsWith: .success) {
            // The first round pays for what the process keeps for good (caches of the runtime and of malloc).
            try liveAndDie()
            let before = Holdings()
            for _ in 0..<3 { try liveAndDie() }
            // A thread that was joined is listed until the kernel has buried it.
            var after = Holdings()
            _ = eventually(seconds: 5) {
                after = Holdings()
                return after == before
            }
            if before != after {
                print("before: \(before)\nafter:  \(after)")
                exit(1)
            }
        }
    }
}
