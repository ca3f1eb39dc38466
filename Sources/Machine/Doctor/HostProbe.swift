/// Looks at this host the way the rest of the project will use it: by doing, not by guessing from versions.

import CKVM
import Glibc
import KVM
import VMState

/// Finds out what this host allows. Changes nothing, and needs no privilege to run.
public struct HostProbe: Sendable {
    let kvmPath: String
    let files = HostFiles()

    /// - Parameter kvmPath: where KVM's device is.
    public init(kvmPath: String = "/dev/kvm") { self.kvmPath = kvmPath }

    /// Everything, section by section.
    public func run() -> HostReport {
        HostReport(sections: [host(), kvm(), paging(), memory(), time(), limits()], cpu: cpu())
    }

    private func cpu() -> CPUBaseline? {
        guard let system = try? KVMSystem(path: kvmPath), let host = try? HostCPU(of: system) else { return nil }
        return CPUBaseline(host)
    }

    private func host() -> HostReport.Section {
        var findings: [HostReport.Finding] = []
        let kernel = files.text("/proc/sys/kernel/osrelease") ?? "unknown"
        findings.append(HostReport.Finding("kernel", .note, kernel))
        findings.append(
            HostReport.Finding("cpu", .note, files.field("model name", in: "/proc/cpuinfo") ?? "unknown"))
        let cpus = sysconf(Int32(_SC_NPROCESSORS_ONLN))
        findings.append(
            cpus > 1
                ? HostReport.Finding("cpus online", .good, "\(cpus)")
                : HostReport.Finding(
                    "cpus online", .poor, "\(cpus)", cost: "a lane and a vCPU take turns: moves slow the guest down",
                    remedy: "give this host a second CPU"))
        findings.append(HostReport.Finding("user", .note, geteuid() == 0 ? "root" : "user \(geteuid())"))
        return HostReport.Section(title: "Host", findings: findings)
    }

    private func time() -> HostReport.Section {
        var findings: [HostReport.Finding] = []
        let source = files.text("/sys/devices/system/clocksource/clocksource0/current_clocksource") ?? "unknown"
        if source == "tsc" {
            findings.append(HostReport.Finding("clock source", .good, source))
        } else {
            findings.append(
                HostReport.Finding(
                    "clock source", .poor, source,
                    cost: "guests get no fast clock (kvmclock falls back), and each reading of time is slower",
                    remedy: "see why the kernel distrusts the TSC: dmesg | grep -i tsc"))
        }
        let flags = Set((files.field("flags", in: "/proc/cpuinfo") ?? "").split(separator: " ").map(String.init))
        for flag in ["constant_tsc", "nonstop_tsc"] {
            findings.append(
                flags.contains(flag)
                    ? HostReport.Finding(flag, .good, "yes")
                    : HostReport.Finding(
                        flag, .poor, "no", cost: "the guest's TSC does not run evenly, and not equally on two hosts",
                        remedy: "nothing but another CPU (or, in a VM, another CPU model)"))
        }
        return HostReport.Section(title: "Time", findings: findings)
    }

    private func limits() -> HostReport.Section {
        var findings: [HostReport.Finding] = []
        if let (soft, hard) = limit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue)) {
            let enough = soft >= 256
            findings.append(
                HostReport.Finding(
                    "open files", enough ? .good : .poor, "\(describe(soft)) (at most \(describe(hard)))",
                    cost: enough ? nil : "many vCPUs and lanes need more descriptors than that",
                    remedy: enough ? nil : "ulimit -n 4096"))
        }
        if let (soft, hard) = limit(Self.lockedMemory) {
            let unlimited = soft == UInt64.max || geteuid() == 0
            findings.append(
                HostReport.Finding(
                    "locked memory", unlimited ? .good : .note,
                    soft == .max
                        ? "unlimited" : "\(Int(clamping: soft >> 10).kibibytesForPeople) (at most \(describe(hard)))",
                    cost: unlimited ? nil : "guest RAM cannot be locked, and may be swapped out",
                    remedy: unlimited ? nil : "ulimit -l unlimited (or LimitMEMLOCK= in the service)"))
        }
        if let (soft, _) = limit(__rlimit_resource_t(RLIMIT_AS.rawValue)), soft != .max {
            findings.append(
                HostReport.Finding(
                    "address space", .poor, "\(Int(clamping: soft >> 10).kibibytesForPeople)",
                    cost: "guest RAM must fit in it", remedy: "ulimit -v unlimited"))
        }
        return HostReport.Section(title: "Limits of this process", findings: findings)
    }

    /// RLIMIT_MEMLOCK of x86-64 Linux: Glibc's headers hide it behind a macro that Swift does not see.
    private static let lockedMemory = __rlimit_resource_t(8)

    private func limit(_ resource: __rlimit_resource_t) -> (soft: UInt64, hard: UInt64)? {
        var limit = rlimit()
        guard unsafe getrlimit(resource, &limit) == 0 else { return nil }
        return (UInt64(limit.rlim_cur), UInt64(limit.rlim_max))
    }

    private func describe(_ limit: UInt64) -> String { limit == .max ? "unlimited" : "\(limit)" }
}
