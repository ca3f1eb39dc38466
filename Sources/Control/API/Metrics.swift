/// What Prometheus scrapes, in its text format (version 0.0.4).

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif
import Glibc
import Migrate

/// Writes metrics, each with its help and type once, whatever the number of samples.
struct MetricsText {
    private(set) var text = ""

    mutating func add(
        _ name: String, _ kind: String, _ help: String, _ samples: [(labels: [(String, String)], value: Double)]
    ) {
        guard !samples.isEmpty else { return }
        text += "# HELP \(name) \(help)\n# TYPE \(name) \(kind)\n"
        for sample in samples {
            let labels = sample.labels.map { "\($0.0)=\"\(Self.escaped($0.1))\"" }.joined(separator: ",")
            text += labels.isEmpty ? name : "\(name){\(labels)}"
            text += " \(Self.number(sample.value))\n"
        }
    }

    mutating func add(_ name: String, _ kind: String, _ help: String, _ value: Double?) {
        guard let value else { return }
        add(name, kind, help, [([], value)])
    }

    private static func escaped(_ text: String) -> String {
        var result = ""
        for character in text {
            switch character {
            case "\\": result += "\\\\"
            case "\"": result += "\\\""
            case "\n": result += "\\n"
            default: result.append(character)
            }
        }
        return result
    }

    private static func number(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        // Counts stay whole numbers up to where a Double does not hold them exactly any more.
        return value == value.rounded() && abs(value) < 9e15 ? String(Int64(value)) : String(value)
    }
}

extension MetricsText {
    /// Everything about one VM and its process.
    static func describing(_ status: VMStatus, _ migration: MigrationStatus) -> String {
        var metrics = MetricsText()
        metrics.add(
            "migratectl_vm_info", "gauge", "The VM that this process runs.",
            [
                (
                    [
                        ("name", status.name), ("guest", status.guest), ("memory_backing", status.memoryBacking),
                        ("dirty_tracker", status.dirtyTracker),
                    ], 1
                )
            ])
        metrics.add(
            "migratectl_vm_state", "gauge", "1 for the state that the VM is in, 0 for the others.",
            VMStatus.State.allCases.map { ([("state", $0.rawValue)], $0 == status.state ? 1 : 0) })
        metrics.add("migratectl_vm_memory_bytes", "gauge", "Guest RAM.", Double(status.memoryBytes))
        metrics.add("migratectl_vm_vcpus", "gauge", "Virtual CPUs.", Double(status.vcpus))
        metrics.add(
            "migratectl_vm_start_time_seconds", "gauge", "When this process began to run or to await the VM.",
            status.startedAt.timeIntervalSince1970)
        metrics.addMigration(migration)
        metrics.addProcess()
        return metrics.text
    }

    private mutating func addMigration(_ migration: MigrationStatus) {
        add(
            "migratectl_migration_state", "gauge",
            "1 for the state of the migration under way or the last one, 0 for the others.",
            MigrationStatus.State.allCases.map { ([("state", $0.rawValue)], $0 == migration.state ? 1 : 0) })
        if let progress = migration.progress {
            add("migratectl_migration_round", "gauge", "The round of pre-copy.", Double(progress.round))
            add(
                "migratectl_migration_sent_bytes_total", "counter", "Bytes put on the wire by this migration.",
                Double(progress.bytesSent))
            add(
                "migratectl_migration_rate_bytes_per_second", "gauge", "Bytes sent a second, lately.",
                progress.bytesPerSecond)
            add(
                "migratectl_migration_dirty_bytes_per_second", "gauge", "Guest memory written a second.",
                progress.dirtyBytesPerSecond)
            add(
                "migratectl_migration_expected_downtime_seconds", "gauge",
                "How long the guest would stand still if the hand-over began now.",
                progress.expectedDowntimeMilliseconds.map { $0 / 1000 })
            add(
                "migratectl_migration_elapsed_seconds", "gauge", "How long the migration has taken.",
                progress.elapsedSeconds)
        }
        if let progress = migration.receiving {
            add(
                "migratectl_migration_received_bytes_total", "counter", "Bytes taken off the wire by this migration.",
                Double(progress.bytesReceived))
        }
        if let missing = migration.receiving?.pagesMissing {
            add(
                "migratectl_migration_missing_pages", "gauge", "Pages that still follow the VM, which runs here.",
                Double(missing))
        }
        guard let report = migration.report else { return }
        addPaging(report.paging)
        add(
            "migratectl_migration_downtime_seconds", "gauge", "How long the guest stood still.",
            report.downtimeMilliseconds.map { $0 / 1000 })
        add(
            "migratectl_migration_downtime_phase_seconds", "gauge", "The parts of the downtime.",
            report.phases.inOrder.map { ([("phase", $0.name)], $0.milliseconds / 1000) })
    }

    private mutating func addPaging(_ paging: PagingReport?) {
        guard let paging else { return }
        add(
            "migratectl_migration_paged_pages", "gauge", "Pages that followed the VM, by how they were sent.",
            [
                ([("way", "demanded")], Double(paging.pagesDemanded)),
                ([("way", "pushed")], Double(paging.pagesPushed)),
                ([("way", "prefetched")], Double(paging.pagesPrefetched)),
                ([("way", "twice")], Double(paging.pagesSentTwice)),
            ])
        guard let faults = paging.faults else { return }
        add(
            "migratectl_migration_fault_seconds", "gauge", "How long the guest's faults took at the destination.",
            [("0.5", faults.p50), ("0.99", faults.p99), ("0.999", faults.p999), ("1", faults.longest)].map {
                ([("quantile", $0.0)], Double($0.1) / 1e9)
            })
    }

    /// The names are those that every Prometheus client library uses.
    private mutating func addProcess() {
        var usage = rusage()
        if unsafe getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage) == 0 {
            let seconds = Double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
            let micro = Double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec)
            add("process_cpu_seconds_total", "counter", "CPU time, of vCPUs too.", seconds + micro / 1e6)
        }
        if let pages = Self.residentPages() {
            add(
                "process_resident_memory_bytes", "gauge", "Resident memory, guest RAM included.",
                Double(pages) * Double(sysconf(Int32(_SC_PAGESIZE))))
        }
    }

    private static func residentPages() -> Int? {
        let raw = unsafe open("/proc/self/statm", O_RDONLY | O_CLOEXEC)
        guard raw >= 0 else { return nil }
        let descriptor = Descriptor(raw)
        var bytes = [UInt8](repeating: 0, count: 128)
        let count = unsafe bytes.withUnsafeMutableBytes { buffer in
            unsafe read(descriptor.raw, buffer.baseAddress, buffer.count)
        }
        let fields = String(decoding: bytes.prefix(max(0, count)), as: UTF8.self).split(separator: " ")
        return fields.count > 1 ? Int(fields[1]) : nil
    }
}

extension DowntimePhases {
    /// The phases with their names, in the order in which they happen.
    public var inOrder: [(name: String, milliseconds: Double)] {
        [
            ("pause", pause), ("capture", capture), ("lastLog", lastLog), ("residue", residue), ("ready", ready),
            ("commit", commit), ("resume", resume),
        ]
    }
}
