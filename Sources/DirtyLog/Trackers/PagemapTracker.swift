/// The tracker that sees whoever writes: write-protection by userfaultfd, resolved by the kernel itself, and a scan of
/// the page tables for what was written.

import CKVM
import Glibc
import KVM
import Synchronization
import Units

/// Tracks by userfaultfd with `WP_ASYNC` and `PAGEMAP_SCAN` (Linux 6.7). It needs nothing of KVM: writes by the guest and
/// writes by this process through the same mapping are seen alike. Writes through another mapping of the same memory,
/// and pages that this process discards, are not: mark those.
///
/// Pages are protected again by `rearm`, as late as with the bitmap tracker. Huge pages are broken up when they are
/// protected first, since the kernel would else report all 512 pages for one write; hugetlb memory cannot be broken up,
/// and a write there reports the 2 MiB around it.
public final class PagemapTracker: DirtyTracker {
    private let regions: [TrackedRegion]
    private let pagemap: Pagemap
    private let written: [AtomicPageSet]
    /// Pages that `rearm` protected though it was not asked to: they belong to the next harvest.
    private let passedOver: [AtomicPageSet]
    private let state = Mutex(State())

    private struct State {
        var faults: Userfaultfd?
        var reportsEverything = false
    }

    /// Bit values of `UFFD_FEATURE_*`: write protection, of shared memory too, of pages not yet there, and without a
    /// message to this process.
    private static let features =
        UInt64(UFFD_FEATURE_PAGEFAULT_FLAG_WP) | UInt64(UFFD_FEATURE_WP_HUGETLBFS_SHMEM)
        | UInt64(UFFD_FEATURE_WP_UNPOPULATED) | UInt64(UFFD_FEATURE_WP_ASYNC)
    /// `UFFDIO_REGISTER_MODE_WP`, which the header builds in a way that Swift does not see.
    private static let writeProtectMode: UInt64 = 1 << 1

    /// A tracker of these regions, not started.
    public init(regions: [TrackedRegion]) throws {
        pagemap = try Pagemap()
        guard pagemap.canScan else {
            throw DirtyLogError(
                .unsupported, "This kernel has no PAGEMAP_SCAN (Linux 6.7): track with KVM's bitmap instead.")
        }
        self.regions = regions
        written = regions.map { AtomicPageSet(pageCount: $0.pageCount) }
        passedOver = regions.map { AtomicPageSet(pageCount: $0.pageCount) }
    }

    /// Whether this host offers what the tracker needs.
    public static var isSupported: Bool {
        guard let pagemap = try? Pagemap(), pagemap.canScan else { return false }
        return (try? Userfaultfd(features: features)) != nil
    }

    public func start(allSet: Bool) throws {
        try state.withLock { state in
            guard state.faults == nil else {
                throw DirtyLogError(.wrongState, "The dirty log is on already: stop it before it is started again.")
            }
            for index in regions.indices {
                var old = PageSet(pageCount: regions[index].pageCount)
                written[index].drain(into: &old)
                passedOver[index].drain(into: &old)
            }
            // Closing the userfaultfd, as an error here does, also unregisters what was registered.
            let faults = try Userfaultfd(features: Self.features)
            for region in regions {
                try faults.register(start: region.address, byteCount: region.byteCount, mode: Self.writeProtectMode)
                if !allSet { try protectAll(of: region, faults) }
            }
            state.faults = faults
            state.reportsEverything = allSet
        }
    }

    public func harvest(into sets: inout [PageSet]) throws -> HarvestResult {
        checkSets(sets, for: regions)
        try state.withLock { state in
            guard state.faults != nil else {
                throw DirtyLogError(.wrongState, "The dirty log is off: start it before harvesting.")
            }
            for (index, region) in regions.enumerated() {
                let all = PageRun(start: PageIndex(0), count: region.pageCount)
                try scan(region, all, protects: false) { sets[index].insert($0) }
                passedOver[index].drain(into: &sets[index])
                written[index].drain(into: &sets[index])
                if state.reportsEverything { sets[index].insertAll() }
            }
            state.reportsEverything = false
        }
        return .complete
    }

    public func rearm(region: Int, firstPage: PageIndex, words: UnsafeBufferPointer<UInt64>) throws {
        precondition(firstPage.rawValue & 63 == 0, "words start at multiples of 64 pages")
        guard let span = unsafe Self.span(of: words) else { return }
        let tracked = regions[region]
        let first = firstPage.rawValue + span.lowerBound
        let end = min(firstPage.rawValue + span.upperBound, tracked.pageCount)
        guard first < end else { return }
        // One scan protects all that was written from the first given page to the last. Pages in between that were not
        // given lose their mark in the page tables, so they are kept here.
        let run = tracked.granules(around: PageRun(start: PageIndex(first), count: end - first))
        for part in tracked.partsThatSplitHugePages(run) {
            try scan(tracked, part, protects: true) { found in
                unsafe keepPagesNotGiven(found, region: region, firstPage: firstPage, words: words)
            }
        }
    }

    public func markWritten(region: Int, run: PageRun) {
        written[region].insert(run)
    }

    public func stop() throws {
        try state.withLock { state in
            guard let faults = state.faults else { return }
            for region in regions { try faults.unregister(start: region.address, byteCount: region.byteCount) }
            state.faults = nil
        }
    }

    // MARK: Parts

    /// Protects every page, those that do not exist yet as well.
    private func protectAll(of region: TrackedRegion, _ faults: Userfaultfd) throws {
        let step = pagesPerStripe
        for first in stride(from: 0, to: region.pageCount, by: step) {
            let run = PageRun(start: PageIndex(first), count: min(step, region.pageCount - first))
            for part in region.partsThatSplitHugePages(run) {
                try faults.writeProtect(
                    start: region.address(of: part), byteCount: part.byteCount, isProtected: true)
            }
        }
    }

    /// Calls `found` with the runs of pages that were written since they were protected; with `protects`, they are
    /// protected again in the same step.
    private func scan(
        _ region: TrackedRegion, _ run: PageRun, protects: Bool, _ found: (PageRun) -> Void
    ) throws {
        let start = region.address(of: run)
        func report(_ range: Range<UInt64>) {
            let first = run.start.rawValue + Int(range.lowerBound - start) / pageByteCount
            let count = Int(range.upperBound - range.lowerBound) / pageByteCount
            found(PageRun(start: PageIndex(first), count: min(count, region.pageCount - first)))
        }
        var filter = PagemapFilter()
        filter.all = PagemapFilter.written
        try pagemap.scan(start: start, byteCount: run.byteCount, filter: filter, protects: protects, report)
        guard region.backing != .anonymous else { return }
        // The kernel may drop the page table entry of a shared page, and with it the mark that it was written. An
        // entry that was protected leaves a marker behind; so nothing at all means that it was not.
        filter.all = PagemapFilter.present | PagemapFilter.swapped
        filter.inverted = filter.all
        try pagemap.scan(start: start, byteCount: run.byteCount, filter: filter, protects: protects, report)
    }

    private func keepPagesNotGiven(
        _ found: PageRun, region: Int, firstPage: PageIndex, words: UnsafeBufferPointer<UInt64>
    ) {
        forEachMask(of: found) { word, mask in
            let given = word - firstPage.rawValue >> 6
            let rest = unsafe given >= 0 && given < words.count ? mask & ~words[given] : mask
            if rest != 0 { passedOver[region].insert(mask: rest, word: word) }
        }
    }

    /// From the first set bit to behind the last; nil without any.
    private static func span(of words: UnsafeBufferPointer<UInt64>) -> Range<Int>? {
        guard let first = unsafe words.firstIndex(where: { $0 != 0 }),
            let last = unsafe words.lastIndex(where: { $0 != 0 })
        else { return nil }
        return unsafe first * 64 + words[first].trailingZeroBitCount..<last * 64 + 64 - words[last].leadingZeroBitCount
    }
}

extension TrackedRegion {
    fileprivate func address(of run: PageRun) -> UInt64 { address + UInt64(run.start.byteOffset) }

    /// The whole pages of the host that hold `run`: hugetlb memory is protected 2 MiB at a time.
    fileprivate func granules(around run: PageRun) -> PageRun {
        guard backing == .hugetlb else { return run }
        let first = run.start.rawValue / pagesPerStripe * pagesPerStripe
        let end = (run.end.rawValue + pagesPerStripe - 1) / pagesPerStripe * pagesPerStripe
        return PageRun(start: PageIndex(first), count: end - first)
    }

    /// The same pages in parts of which none is a whole huge page, so that protecting one breaks it up.
    fileprivate func partsThatSplitHugePages(_ run: PageRun) -> [PageRun] {
        guard backing != .hugetlb, run.count > 1 else { return [run] }
        let head = PageRun(start: run.start, count: 1)
        return [head, PageRun(start: head.end, count: run.count - 1)]
    }
}
