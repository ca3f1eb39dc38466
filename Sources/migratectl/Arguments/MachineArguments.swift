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
    @Option(help: "Guest RAM: anon (with transparent huge pages), memfd, or hugetlb (reserved 2 MiB pages).")
    var memoryBacking = MemoryBacking.anonymous

    @Option(help: "How written pages are found: bitmap, or ring (its cost follows the written pages).")
    var dirtyTracker = DirtyTrackerKind.bitmap

    @Option(help: "The serial console: socket (for migratectl console), stdio, or none.")
    var serial = SerialMode.socket

    @Option(
        help: ArgumentHelp("Write a report (JSON) when the VM has ended here; - is standard output.", valueName: "file")
    )
    var report: String?

    @Option(help: "How much to say on standard error: trace, debug, info, notice, warning, error.")
    var logLevel = Logger.Level.notice

    @Option(
        name: .customLong("kvm-device"),
        help: ArgumentHelp("The device of KVM.", valueName: "path", visibility: .hidden))
    var kvmPath = "/dev/kvm"

    func validate() throws {
        if serial == .stdio, report == "-" {
            throw ValidationError("Both --serial stdio and --report - want standard output: give the report a file.")
        }
    }

    var logger: Logger {
        var logger = Logger(label: "migratectl") { StreamLogHandler.standardError(label: $0) }
        logger.logLevel = logLevel
        return logger
    }
}

extension Logger.Level: @retroactive ExpressibleByArgument {}
