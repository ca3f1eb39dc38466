/// Options of the process of a VM, shared by `run` and `receive`.

import ArgumentParser
import Control
import KVM
import Logging
import Machine

enum SerialMode: String, ExpressibleByArgument, CaseIterable {
    case socket, stdio, none
}

extension MemoryBacking: ExpressibleByArgument {}
extension DirtyTrackerKind: ExpressibleByArgument {}

/// What a VM is like on this host, wherever it came from.
struct HostArguments: ParsableArguments {
    @Option(
        help: "Guest RAM: anon (with transparent huge pages), memfd, or hugetlb (reserved 2 MiB pages). (default: anon)"
    )
    var memoryBacking: MemoryBacking?

    @Option(
        help: "How written pages are found: bitmap, or ring (its cost follows the written pages). (default: bitmap)")
    var dirtyTracker: DirtyTrackerKind?

    @Option(help: "The console: socket (for migratectl console), stdio, or none. (default: socket)")
    var serial: SerialMode?

    @Option(
        help: ArgumentHelp("Write a report (JSON) when the VM has ended here; - is standard output.", valueName: "file")
    )
    var report: String?

    @Option(
        help: "How much to say on standard error: trace, debug, info, notice, warning, error. (default: notice)")
    var logLevel: Logger.Level?

    @Option(
        name: .customLong("kvm-device"),
        help: ArgumentHelp("The device of KVM.", valueName: "path", visibility: .hidden))
    var kvmPath = "/dev/kvm"

    func validate() throws {
        if serial == .stdio, report == "-" {
            throw ValidationError("Both --serial stdio and --report - want standard output: give the report a file.")
        }
    }

    /// With defaults for what nobody said.
    var settings: HostSettings { HostSettings(RunConfiguration(host: self), kvmPath: kvmPath) }
}

/// What was decided of a VM's host side.
struct HostSettings {
    var memoryBacking: MemoryBacking
    var dirtyTracker: DirtyTrackerKind
    var serial: SerialMode
    var console: ConsoleKind
    var report: String?
    var logLevel: Logger.Level
    var kvmPath: String

    init(_ configuration: RunConfiguration, kvmPath: String) {
        memoryBacking = configuration.memoryBacking ?? .anonymous
        dirtyTracker = configuration.dirtyTracker ?? .bitmap
        serial = configuration.serial ?? .socket
        console = configuration.console ?? .serial
        report = configuration.report
        logLevel = configuration.logLevel ?? .notice
        self.kvmPath = kvmPath
    }

    var logger: Logger {
        var logger = Logger(label: "migratectl") { StreamLogHandler.standardError(label: $0) }
        logger.logLevel = logLevel
        return logger
    }
}

extension RunConfiguration {
    /// What the flags of `HostArguments` say.
    init(host: HostArguments) {
        self.init()
        memoryBacking = host.memoryBacking
        dirtyTracker = host.dirtyTracker
        serial = host.serial
        report = host.report
        logLevel = host.logLevel
    }
}

extension Logger.Level: @retroactive ExpressibleByArgument {}
