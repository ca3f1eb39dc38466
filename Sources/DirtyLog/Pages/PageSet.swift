/// A set of pages of one memory region, as a bitmap.
///
/// The bitmap has the layout of KVM's dirty logs (bit `i` of word `w` stands for page `64 w + i`), so that a log is
/// taken over without conversion. Questions about pages beyond `pageCount` have an answer (they are not in the set);
/// changing such a page is a programmer's error and traps.

import Units

/// Bit `i` of word `w` stands for page `64 w + i`. Bits beyond `pageCount` are zero.
public struct PageSet: Equatable, Sendable {
    /// The pages of the region: the set holds some of `0 ..< pageCount`.
    public let pageCount: Int
    @usableFromInline var storage: [UInt64]

    /// A set over `pageCount` pages: empty, or with every page.
    public init(pageCount: Int, full: Bool = false) {
        precondition(pageCount >= 0, "a region cannot have \(pageCount) pages")
        self.pageCount = pageCount
        self.storage = Array(repeating: 0, count: (pageCount + 63) / 64)
        if full { insertAll() }
    }

    /// The bitmap. To change it, see `PageSet+Words.swift`.
    @inlinable public var words: [UInt64] { storage }

    /// How many words the bitmap has.
    @inlinable public var wordCount: Int { storage.count }

    /// All pages of the region as one run.
    @inlinable public var allPages: PageRun { PageRun(start: PageIndex(0), count: pageCount) }
}

// MARK: One page

extension PageSet {
    /// Whether `page` is in the set; false for a page beyond the region.
    @inlinable
    public func contains(_ page: PageIndex) -> Bool {
        guard page.rawValue >= 0, page.rawValue < pageCount else { return false }
        return storage[page.rawValue >> 6] & (1 << UInt64(page.rawValue & 63)) != 0
    }

    /// Adds `page`; true if it was not there before.
    @inlinable @discardableResult
    public mutating func insert(_ page: PageIndex) -> Bool {
        precondition(page.rawValue >= 0 && page.rawValue < pageCount, "page outside of the set")
        let bit: UInt64 = 1 << UInt64(page.rawValue & 63)
        let old = storage[page.rawValue >> 6]
        storage[page.rawValue >> 6] = old | bit
        return old & bit == 0
    }

    /// Takes `page` out; true if it was there.
    @inlinable @discardableResult
    public mutating func remove(_ page: PageIndex) -> Bool {
        precondition(page.rawValue >= 0 && page.rawValue < pageCount, "page outside of the set")
        let bit: UInt64 = 1 << UInt64(page.rawValue & 63)
        let old = storage[page.rawValue >> 6]
        storage[page.rawValue >> 6] = old & ~bit
        return old & bit != 0
    }
}

// MARK: Runs of pages

extension PageSet {
    /// Whether every page of `run` is in the set (an empty run is).
    @inlinable
    public func contains(_ run: PageRun) -> Bool {
        guard run.count > 0 else { return true }
        guard clipped(run).count == run.count else { return false }
        return count(in: run) == run.count
    }

    /// Whether any page of `run` is in the set.
    @inlinable
    public func intersects(_ run: PageRun) -> Bool {
        nextRun(in: run) != nil
    }

    /// Adds all pages of `run`.
    @inlinable
    public mutating func insert(_ run: PageRun) {
        change(run) { $0 |= $1 }
    }

    /// Takes all pages of `run` out.
    @inlinable
    public mutating func remove(_ run: PageRun) {
        change(run) { $0 &= ~$1 }
    }

    /// Adds every page of the region.
    @inlinable
    public mutating func insertAll() { insert(allPages) }

    /// Takes every page out.
    @inlinable
    public mutating func removeAll() { remove(allPages) }

    /// How many pages of `run` are in the set.
    @inlinable
    public func count(in run: PageRun) -> Int {
        var total = 0
        forEachMask(of: clipped(run)) { index, mask in total &+= (storage[index] & mask).nonzeroBitCount }
        return total
    }

    /// Calls `body` with each word that `run` touches and the bits of it that `run` covers.
    @inlinable
    mutating func change(_ run: PageRun, _ body: (inout UInt64, UInt64) -> Void) {
        precondition(clipped(run).count == run.count, "run outside of the set")
        forEachMask(of: run) { index, mask in body(&storage[index], mask) }
    }
}

// MARK: Masks

extension PageSet {
    /// The part of `run` that lies within the region.
    @inlinable
    func clipped(_ run: PageRun) -> PageRun {
        let start = min(max(run.start.rawValue, 0), pageCount)
        // Not `run.end`: a run from outside must not overflow.
        let (sum, overflow) = run.start.rawValue.addingReportingOverflow(max(run.count, 0))
        let end = overflow ? pageCount : min(max(sum, start), pageCount)
        return PageRun(start: PageIndex(start), count: end - start)
    }
}

/// Calls `body` with the number of each 64-page word that `run` touches, and the bits of it that `run` covers.
@inlinable
func forEachMask(of run: PageRun, _ body: (Int, UInt64) -> Void) {
    guard run.count > 0 else { return }
    let last = run.end.rawValue - 1
    let firstWord = run.start.rawValue >> 6
    let lastWord = last >> 6
    let lowMask = UInt64.max << UInt64(run.start.rawValue & 63)
    let highMask = UInt64.max >> UInt64(63 - last & 63)
    if firstWord == lastWord {
        body(firstWord, lowMask & highMask)
        return
    }
    body(firstWord, lowMask)
    for index in firstWord + 1..<lastWord { body(index, .max) }
    body(lastWord, highMask)
}
