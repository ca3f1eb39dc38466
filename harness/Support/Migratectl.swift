/// The built `migratectl`, used as a person would use it: processes, their JSON, their control sockets.

import Foundation

/// How VMs are made.
public struct VMOptions: Sendable {
    public var memoryMiB: Int
    public var vcpus: Int
    /// The selftest guest's command line (docs/selftest-guest.md).
    public var guestOptions: String
    /// anon, memfd or hugetlb.
    public var backing: String
    /// bitmap or ring.
    public var tracker: String

    public init(
        memoryMiB: Int, vcpus: Int = 1, guestOptions: String, backing: String = "anon", tracker: String = "bitmap"
    ) {
        self.memoryMiB = memoryMiB
        self.vcpus = vcpus
        self.guestOptions = guestOptions
        self.backing = backing
        self.tracker = tracker
    }
}

/// The program.
public struct Migratectl: Sendable {
    public let program: String

    public init(program: String) throws {
        guard FileManager.default.isExecutableFile(atPath: program) else {
            throw HarnessError("\(program) is not there; build it with: swift build -c release --product migratectl")
        }
        self.program = program
    }

    /// What `--version` prints.
    public func version(folder: String) throws -> String {
        let child = try Child("migratectl-version", program, ["--version"], folder: folder)
        try child.waitForEnd(seconds: 20)
        return child.output.trimmingCharacters(in: .whitespacesAndNewlines)
    }

    /// Starts a VM and waits until its guest works.
    public func run(_ name: String, _ options: VMOptions, folder: String) throws -> VMProcess {
        let vm = try VMProcess(
            self, side: name, folder: folder,
            arguments: [
                "run", "--name", name, "--memory", "\(options.memoryMiB)M", "--cpus", "\(options.vcpus)", "--guest",
                "selftest", "--guest-options", options.guestOptions, "--memory-backing", options.backing,
                "--dirty-tracker", options.tracker, "--serial", "socket",
            ], name: name)
        try vm.console().waitUntilReady(seconds: 180)
        return vm
    }

    /// Starts a process that waits for a VM, and waits until it listens. `preallocate` has its memory resident by then.
    public func receive(
        _ name: String, _ options: VMOptions, transport: String, preallocate: Bool = false, folder: String
    ) throws -> VMProcess {
        let place = transport == "unix" ? "unix:\(folder)/lanes-\(monotonicNanoseconds() / 1000).sock" : "127.0.0.1:0"
        let vm = try VMProcess(
            self, side: name + "-receiver", folder: folder,
            arguments: [
                "receive", "--listen", place, "--name", name, "--memory-backing", options.backing, "--dirty-tracker",
                options.tracker, "--serial", "socket",
            ] + (preallocate ? ["--preallocate", "\(options.memoryMiB)M"] : []), name: name)
        _ = try wait(for: "\(name) to listen", seconds: 60) {
            if !vm.child.isRunning { throw vm.child.failure("ended early") }
            return try? vm.listening()
        }
        return vm
    }
}
