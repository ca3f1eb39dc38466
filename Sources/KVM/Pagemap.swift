/// What the kernel knows of this process' pages: populated, written since protected.

import CKVM
import Glibc
import Units

/// This process' page map (`/proc/self/pagemap`). From any thread.
public final class Pagemap: Sendable {
    private let descriptor: FileDescriptor
    /// Whether the kernel has PAGEMAP_SCAN (Linux 6.7).
    public let canScan: Bool

    public init() throws(KVMError) {
        descriptor = try FileDescriptor(opening: "/proc/self/pagemap", flags: O_RDONLY)
        var argument = pm_scan_arg()
        argument.size = UInt64(MemoryLayout<pm_scan_arg>.size)
        let number = descriptor.rawValue
        // An empty scan: 0 where the ioctl exists, ENOTTY where not.
        canScan = unsafe withUnsafeMutablePointer(to: &argument) {
            unsafe ckvm_ioctl_pointer(number, CKVM_PAGEMAP_SCAN, $0) >= 0
        }
    }

    package init(adopting descriptor: CInt, canScan: Bool) {
        self.descriptor = FileDescriptor(adopting: descriptor)
        self.canScan = canScan
    }

    /// Sets bit `i` of `words` for each page `firstPage + i` of `memory` that may hold anything but zeros: present or
    /// swapped, and not the shared zero page. `words` is filled whole; bits beyond the memory's end are clear.
    public func readPopulation(
        of memory: GuestMemory, firstPage: PageIndex, words: UnsafeMutableBufferPointer<UInt64>
    ) throws(KVMError) {
        for index in words.indices { unsafe words[index] = 0 }
        let pageCount = min(words.count * 64, memory.byteCount / pageByteCount - firstPage.rawValue)
        guard pageCount > 0 else { return }
        switch memory.backing {
        case .anonymous:
            let start = unsafe UInt64(UInt(bitPattern: memory.base)) + UInt64(firstPage.byteOffset)
            if canScan {
                try unsafe scanPopulation(start: start, pageCount: pageCount, words: words)
            } else {
                try unsafe readEntries(start: start, pageCount: pageCount, words: words)
            }
        case .memfd:
            try unsafe seekPopulation(of: memory, firstPage: firstPage, pageCount: pageCount, words: words)
        case .hugetlb:
            try unsafe coreResidency(of: memory, firstPage: firstPage, pageCount: pageCount, words: words)
        }
    }

    private func scanPopulation(
        start: UInt64, pageCount: Int, words: UnsafeMutableBufferPointer<UInt64>
    ) throws(KVMError) {
        var filter = PagemapFilter()
        filter.anyOf = PagemapFilter.present | PagemapFilter.swapped
        filter.all = PagemapFilter.zeroPage
        filter.inverted = PagemapFilter.zeroPage
        try scan(start: start, byteCount: pageCount * pageByteCount, filter: filter) { range in
            let first = Int((range.lowerBound - start) / UInt64(pageByteCount))
            let end = Int((range.upperBound - start) / UInt64(pageByteCount))
            unsafe setBits(from: first, to: min(end, pageCount), in: words)
        }
    }

    /// Linux before 6.7: one entry of 8 bytes a page; bit 63 present, bit 62 swapped.
    private func readEntries(
        start: UInt64, pageCount: Int, words: UnsafeMutableBufferPointer<UInt64>
    ) throws(KVMError) {
        let step = 512
        var entries = [UInt64](repeating: 0, count: step)
        var page = 0
        while page < pageCount {
            let count = min(step, pageCount - page)
            let offset = Int(start / UInt64(pageByteCount) + UInt64(page)) * 8
            let result = unsafe ckvm_pread(descriptor.rawValue, &entries, count * 8, offset)
            guard result >= 0 else { throw KVMError("pread", result, "/proc/self/pagemap") }
            // A short read would leave pages unseen: count them as populated.
            for index in 0..<count where index >= result / 8 || entries[index] >> 62 != 0 {
                unsafe words[(page + index) / 64] |= 1 << UInt64((page + index) % 64)
            }
            page += count
        }
    }

    /// The file knows its swapped pages as data, which mincore does not.
    private func seekPopulation(
        of memory: GuestMemory, firstPage: PageIndex, pageCount: Int, words: UnsafeMutableBufferPointer<UInt64>
    ) throws(KVMError) {
        guard let file = memory.fileDescriptor else { return }
        let start = firstPage.byteOffset
        let end = start + pageCount * pageByteCount
        var position = start
        while position < end {
            let data = ckvm_lseek(file, position, SEEK_DATA)
            if data == -Int(ENXIO) { return }
            guard data >= 0 else { throw KVMError("lseek(SEEK_DATA)", data, "guest RAM") }
            if data >= end { return }
            let hole = ckvm_lseek(file, data, SEEK_HOLE)
            guard hole >= 0 else { throw KVMError("lseek(SEEK_HOLE)", hole, "guest RAM") }
            let first = (data - start) / pageByteCount
            let last = (min(hole, end) - start + pageByteCount - 1) / pageByteCount
            unsafe setBits(from: first, to: last, in: words)
            position = max(hole, data + pageByteCount)
        }
    }

    /// Huge pages are never swapped, so that what is in core is all there is.
    private func coreResidency(
        of memory: GuestMemory, firstPage: PageIndex, pageCount: Int, words: UnsafeMutableBufferPointer<UInt64>
    ) throws(KVMError) {
        var resident = [UInt8](repeating: 0, count: pageCount)
        let result = unsafe ckvm_mincore(
            memory.base + firstPage.byteOffset, pageCount * pageByteCount, &resident)
        guard result == 0 else { throw KVMError(operation: "mincore", errno: -result, subject: "guest RAM") }
        for page in 0..<pageCount where resident[page] & 1 != 0 {
            unsafe words[page / 64] |= 1 << UInt64(page % 64)
        }
    }

    /// Calls `found` with each range of addresses whose pages match (PAGEMAP_SCAN). With `protects`, the pages found
    /// are write-protected again in the same step (userfaultfd with WP_ASYNC).
    public func scan(
        start: UInt64, byteCount: Int, filter: PagemapFilter, protects: Bool = false, _ found: (Range<UInt64>) -> Void
    ) throws(KVMError) {
        let capacity = 512
        var regions = [page_region](repeating: page_region(), count: capacity)
        var position = start
        let end = start + UInt64(byteCount)
        while position < end {
            var argument = pm_scan_arg()
            argument.size = UInt64(MemoryLayout<pm_scan_arg>.size)
            argument.flags = protects ? UInt64(PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC) : 0
            argument.start = position
            argument.end = end
            argument.vec_len = UInt64(capacity)
            argument.category_inverted = filter.inverted
            argument.category_mask = filter.all
            argument.category_anyof_mask = filter.anyOf
            argument.return_mask = filter.anyOf | (filter.all & ~filter.inverted)
            let result = unsafe regions.withUnsafeMutableBufferPointer { buffer in
                argument.vec = UInt64(UInt(bitPattern: buffer.baseAddress))
                return unsafe withUnsafeMutablePointer(to: &argument) {
                    unsafe ckvm_ioctl_pointer(descriptor.rawValue, CKVM_PAGEMAP_SCAN, $0)
                }
            }
            guard result >= 0 else { throw KVMError("PAGEMAP_SCAN", result, "/proc/self/pagemap") }
            for region in regions.prefix(result) { found(region.start..<region.end) }
            // The kernel does not get past a part of a huge page of hugetlb that it is to protect.
            guard argument.walk_end > position else {
                throw KVMError(operation: "PAGEMAP_SCAN", errno: EIO, subject: "a range that makes no progress")
            }
            position = argument.walk_end
        }
    }
}

/// Which pages a scan finds: those with every category of `all` and at least one of `anyOf`; a category in
/// `inverted` counts when the page lacks it.
public struct PagemapFilter: Sendable {
    public var all: UInt64 = 0
    public var anyOf: UInt64 = 0
    public var inverted: UInt64 = 0

    public init() {}

    public static let written = UInt64(PAGE_IS_WRITTEN)
    public static let present = UInt64(PAGE_IS_PRESENT)
    public static let swapped = UInt64(PAGE_IS_SWAPPED)
    public static let zeroPage = UInt64(PAGE_IS_PFNZERO)
    public static let huge = UInt64(PAGE_IS_HUGE)
}

/// Sets the bits of a half-open range.
private func setBits(from first: Int, to end: Int, in words: UnsafeMutableBufferPointer<UInt64>) {
    var bit = first
    while bit < end {
        let word = bit / 64
        let low = bit % 64
        let count = min(64 - low, end - bit)
        let mask: UInt64 = count == 64 ? .max : (1 << UInt64(count) - 1) << UInt64(low)
        unsafe words[word] |= mask
        bit += count
    }
}
