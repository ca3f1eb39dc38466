/// userfaultfd, the pagemap and io_uring: what post-copy, snapshots and disks build upon.

import CKVM
import Glibc
import KVM

extension HostProbe {
    func paging() -> HostReport.Section {
        HostReport.Section(title: "Paging and I/O", findings: userfaultfd() + [pagemapScan(), ioUring()])
    }

    /// A feature of userfaultfd that this project uses, and since when kernels have it.
    private static let features: [(bit: UInt64, name: String, cost: String, since: String)] = [
        (UInt64(UFFD_FEATURE_MISSING_SHMEM), "MISSING on shared memory", "no post-copy into memfd", "4.11"),
        (UInt64(UFFD_FEATURE_MINOR_SHMEM), "MINOR faults on shared memory", "no post-copy hybrid into memfd", "5.14"),
        (
            UInt64(UFFD_FEATURE_MISSING_HUGETLBFS), "MISSING on hugetlb", "no post-copy into hugetlb memory", "4.11"
        ),
        (
            UInt64(UFFD_FEATURE_PAGEFAULT_FLAG_WP), "write protection", "no snapshots of a running VM", "5.7"
        ),
        (
            UInt64(UFFD_FEATURE_WP_HUGETLBFS_SHMEM), "write protection of shared memory",
            "no snapshots of a running VM in memfd", "5.19"
        ),
        (
            UInt64(UFFD_FEATURE_WP_UNPOPULATED), "write protection of holes",
            "anonymous memory is populated before a snapshot", "6.4"
        ),
        (UInt64(UFFD_FEATURE_WP_ASYNC), "asynchronous write protection", "no pagemap dirty tracker", "6.7"),
        (UInt64(UFFD_FEATURE_MOVE), "UFFDIO_MOVE", "post-copy copies pages instead of moving them", "6.8"),
        (UInt64(UFFD_FEATURE_EXACT_ADDRESS), "exact fault addresses", "faults are known by the page only", "5.18"),
        (UInt64(UFFD_FEATURE_THREAD_ID), "thread ids of faults", "no post-copy latency by vCPU", "4.14"),
    ]

    private func userfaultfd() -> [HostReport.Finding] {
        let handle: Userfaultfd
        do throws(KVMError) {
            handle = try Userfaultfd()
        } catch {
            let remedy =
                switch error.errno {
                case EPERM, EACCES:
                    "sysctl vm.unprivileged_userfaultfd=1, or give your user /dev/userfaultfd, or run as root"
                case ENOSYS: "a kernel with CONFIG_USERFAULTFD"
                default: "look at dmesg"
                }
            return [
                HostReport.Finding(
                    "userfaultfd", .poor, "\(error)", cost: "no post-copy, no lazy restore, no live snapshots",
                    remedy: remedy)
            ]
        }
        let way =
            unsafe access("/dev/userfaultfd", R_OK | W_OK) == 0 ? "through /dev/userfaultfd" : "through the system call"
        var findings = [HostReport.Finding("userfaultfd", .good, way)]
        for feature in Self.features {
            findings.append(
                handle.features & feature.bit != 0
                    ? HostReport.Finding("userfaultfd: \(feature.name)", .good, "yes")
                    : HostReport.Finding(
                        "userfaultfd: \(feature.name)", .poor, "no", cost: feature.cost,
                        remedy: "Linux \(feature.since) or newer"))
        }
        return findings
    }

    private func pagemapScan() -> HostReport.Finding {
        do throws(KVMError) {
            let pagemap = try Pagemap()
            if pagemap.canScan { return HostReport.Finding("PAGEMAP_SCAN", .good, "yes") }
            return HostReport.Finding(
                "PAGEMAP_SCAN", .poor, "no", cost: "no pagemap dirty tracker; holes are found more slowly",
                remedy: "Linux 6.7 or newer")
        } catch {
            return HostReport.Finding(
                "PAGEMAP_SCAN", .poor, "\(error)",
                cost: "holes in memory cannot be told from pages: all of RAM is sent",
                remedy: "mount /proc")
        }
    }

    private func ioUring() -> HostReport.Finding {
        let result = ckvm_io_uring_probe()
        if result == 0 { return HostReport.Finding("io_uring", .good, "yes") }
        let isDisabled = (files.number("/proc/sys/kernel/io_uring_disabled") ?? 0) > 0
        return HostReport.Finding(
            "io_uring", .poor, ErrnoText.describe(-result), cost: "snapshots and disks use slower file I/O",
            remedy: isDisabled
                ? "sysctl kernel.io_uring_disabled=0"
                : "Linux 5.6 or newer; in a container, a seccomp profile that allows io_uring_setup")
    }
}
