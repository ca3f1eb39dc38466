/// RAM and huge pages.

extension HostProbe {
    func memory() -> HostReport.Section {
        HostReport.Section(
            title: "Memory", findings: sizes() + [anonymousHugePages(), sharedHugePages()] + hugetlb() + [overcommit()])
    }

    private func sizes() -> [HostReport.Finding] {
        ["MemTotal", "MemAvailable", "SwapTotal"].compactMap { key in
            guard let text = files.field(key, in: "/proc/meminfo")?.split(separator: " ").first, let value = Int(text)
            else { return nil }
            return HostReport.Finding(key, .note, value.kibibytesForPeople)
        }
    }

    private func anonymousHugePages() -> HostReport.Finding {
        let mode = files.choice("/sys/kernel/mm/transparent_hugepage/enabled")
        guard let mode, mode != "never" else {
            return HostReport.Finding(
                "transparent huge pages", .poor, mode ?? "not in this kernel",
                cost: "guests are slower, and a receiver needs up to ten times as long to touch its memory first",
                remedy: "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
        }
        return HostReport.Finding("transparent huge pages", .good, mode)
    }

    private func sharedHugePages() -> HostReport.Finding {
        let mode = files.choice("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
        guard let mode, ["always", "within_size", "advise", "force"].contains(mode) else {
            return HostReport.Finding(
                "transparent huge pages in memfd", .poor, mode ?? "not in this kernel",
                cost: "--memory-backing memfd uses small pages",
                remedy: "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled")
        }
        return HostReport.Finding("transparent huge pages in memfd", .good, mode)
    }

    private func hugetlb() -> [HostReport.Finding] {
        [("2 MiB", 2048), ("1 GiB", 1_048_576)].compactMap { (size, kibibytes) in
            let folder = "/sys/kernel/mm/hugepages/hugepages-\(kibibytes)kB"
            guard let total = files.number(folder + "/nr_hugepages"),
                let free = files.number(folder + "/free_hugepages")
            else { return nil }
            let reserved = files.number(folder + "/resv_hugepages") ?? 0
            // Pages of 1 GiB are nothing that we use by ourselves: only worth a line where there are some.
            if kibibytes != 2048, total == 0 { return nil }
            let available = max(0, free - reserved)
            return HostReport.Finding(
                "hugetlb pages of \(size)", available > 0 ? .good : .note, "\(available) free of \(total)",
                cost: available > 0 ? nil : "no --memory-backing hugetlb",
                remedy: available > 0 ? nil : "echo COUNT > \(folder)/nr_hugepages")
        }
    }

    private func overcommit() -> HostReport.Finding {
        let mode = files.number("/proc/sys/vm/overcommit_memory") ?? 0
        guard mode == 2 else {
            return HostReport.Finding("overcommit", .good, mode == 1 ? "always" : "heuristic")
        }
        return HostReport.Finding(
            "overcommit", .note, "never", cost: "guest RAM counts in full, touched or not",
            remedy: "sysctl vm.overcommit_memory=0")
    }
}
