/// A page set that any thread can add to while another empties it: the VMM's own writes, and what trackers collect
/// in the background.

import Synchronization
import Units

/// A bitmap of atomic words over the pages of one region, with a summary (one bit for 64 words) so that emptying it
/// costs by what was added and not by the size of memory.
public final class AtomicPageSet: @unchecked Sendable {
    /// The pages of the region.
    public let pageCount: Int
    private let words: AtomicWords
    private let summary: AtomicWords

    /// An empty set over `pageCount` pages.
    public init(pageCount: Int) {
        precondition(pageCount >= 0, "a region cannot have \(pageCount) pages")
        self.pageCount = pageCount
        self.words = AtomicWords(count: (pageCount + 63) / 64)
        self.summary = AtomicWords(count: (pageCount + 4095) / 4096)
    }

    /// Adds `page`. From any thread; whoever drains the set after this returned finds the page, and sees what was
    /// written to memory before.
    public func insert(_ page: PageIndex) {
        insert(PageRun(start: page, count: 1))
    }

    /// Adds the pages of `run`. From any thread, as above.
    public func insert(_ run: PageRun) {
        precondition(
            run.start.rawValue >= 0 && run.count >= 0 && run.count <= pageCount - run.start.rawValue,
            "run outside of the set")
        forEachMask(of: run) { index, mask in insert(mask: mask, word: index) }
    }

    /// Adds the pages `64 index + i` for each bit `i` of `mask`.
    func insert(mask: UInt64, word index: Int) {
        // Word first, summary second, and the other way round in `drain`, all sequentially consistent: if `drain`
        // emptied the word before this call filled it, this call sees the summary bit already taken, and sets it again.
        words.or(mask, at: index)
        let bit: UInt64 = 1 << UInt64(index & 63)
        if summary.load(at: index >> 6) & bit == 0 { summary.or(bit, at: index >> 6) }
    }

    /// Moves all pages to `set`, a set over the same region. One thread at a time.
    public func drain(into set: inout PageSet) {
        precondition(set.pageCount == pageCount, "sets over different regions")
        for group in 0..<summary.count where summary.load(at: group) != 0 {
            var bits = summary.take(at: group)
            while bits != 0 {
                let index = group << 6 + bits.trailingZeroBitCount
                bits &= bits - 1
                set.storage[index] |= words.take(at: index)
            }
        }
    }
}

/// A fixed array of atomic 64-bit words.
@safe
private struct AtomicWords: ~Copyable {
    private let base: UnsafeMutablePointer<Atomic<UInt64>>
    let count: Int

    init(count: Int) {
        self.count = count
        unsafe self.base = .allocate(capacity: count)
        for index in 0..<count { unsafe (base + index).initialize(to: Atomic(0)) }
    }

    deinit {
        unsafe base.deinitialize(count: count)
        unsafe base.deallocate()
    }

    func load(at index: Int) -> UInt64 {
        precondition(index >= 0 && index < count)
        return unsafe base[index].load(ordering: .sequentiallyConsistent)
    }

    func or(_ bits: UInt64, at index: Int) {
        precondition(index >= 0 && index < count)
        _ = unsafe base[index].bitwiseOr(bits, ordering: .sequentiallyConsistent)
    }

    /// Reads a word and sets it to zero.
    func take(at index: Int) -> UInt64 {
        precondition(index >= 0 && index < count)
        return unsafe base[index].exchange(0, ordering: .sequentiallyConsistent)
    }
}
