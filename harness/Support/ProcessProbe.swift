/// What /proc tells about a process: CPU used, and what a leak would show up in.

import Foundation
import Glibc

/// The resources of a process at one moment.
public struct ProcessResources: Codable, Equatable, Sendable {
    public var descriptors: Int
    public var threads: Int
    public var mappings: Int
    /// Kilobytes resident.
    public var residentKilobytes: Int

    public init(of pid: pid_t) throws {
        let files = FileManager.default
        guard let descriptors = try? files.contentsOfDirectory(atPath: "/proc/\(pid)/fd"),
            let threads = try? files.contentsOfDirectory(atPath: "/proc/\(pid)/task"),
            let mappings = readText("/proc/\(pid)/maps"),
            let status = readText("/proc/\(pid)/status")
        else {
            throw HarnessError("cannot look into /proc/\(pid)")
        }
        self.descriptors = descriptors.count
        self.threads = threads.count
        self.mappings = mappings.split(separator: "\n").count
        let resident = status.split(separator: "\n").first { $0.hasPrefix("VmRSS:") }
        residentKilobytes =
            resident.flatMap { $0.split(whereSeparator: { $0 == " " || $0 == "\t" }).dropFirst().first }
            .flatMap { Int($0) } ?? 0
    }
}

/// CPU used by a process, and by its threads with a certain name.
public struct ProcessorTime: Sendable {
    /// Nanoseconds of all threads, ended ones too.
    public var all: UInt64
    /// Nanoseconds of the threads that run the guest.
    public var guest: UInt64

    /// Of a living process. vCPU threads are those whose name starts with one of `guestThreads`.
    public init?(of pid: pid_t, guestThreads: [String]) {
        var clock = clockid_t()
        var time = timespec()
        guard clock_getcpuclockid(pid, &clock) == 0, clock_gettime(clock, &time) == 0 else { return nil }
        all = UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
        guest = 0
        let tasks = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/task")) ?? []
        for task in tasks {
            let path = "/proc/\(pid)/task/\(task)"
            guard let name = readText(path + "/comm"), guestThreads.contains(where: { name.hasPrefix($0) }),
                let schedule = readText(path + "/schedstat"),
                let first = schedule.split(separator: " ").first, let nanoseconds = UInt64(first)
            else { continue }
            guest += nanoseconds
        }
    }

    /// Nanoseconds of everything but the guest.
    public var overhead: UInt64 { all >= guest ? all - guest : 0 }
}

/// The text of a small file, or nil.
public func readText(_ path: String) -> String? {
    // Files of /proc have no size, so read until the end.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65536)
    while true {
        let count = read(descriptor, &buffer, buffer.count)
        if count < 0 { return nil }
        if count == 0 { return String(decoding: bytes, as: UTF8.self) }
        bytes.append(contentsOf: buffer[..<count])
    }
}
