/// Pages that are still to be sent, or to come: whoever takes one out is the only one that works on it.

import DirtyLog
import Synchronization
import Units

/// A bitmap over one region's pages, which any thread may take pages from. Allocates only when it is made.
@safe
package final class PageClaims: @unchecked Sendable {
    package let pageCount: Int
    package let wordCount: Int
    private let words: UnsafeMutablePointer<Atomic<UInt64>>

    package init(pageCount: Int) {
        self.pageCount = pageCount
        wordCount = (pageCount + 63) / 64
        unsafe words = .allocate(capacity: max(wordCount, 1))
        for index in 0..<wordCount { unsafe (words + index).initialize(to: Atomic(0)) }
    }

    deinit {
        unsafe words.deinitialize(count: wordCount)
        unsafe words.deallocate()
    }

    /// Replaces the contents. Nobody takes pages meanwhile.
    package func fill(_ set: PageSet?) {
        for index in 0..<wordCount {
            unsafe words[index].store(set?.words[index] ?? 0, ordering: .relaxed)
        }
    }

    package func contains(_ page: Int) -> Bool {
        guard page >= 0, page < pageCount else { return false }
        return unsafe words[page >> 6].load(ordering: .acquiring) >> UInt64(page & 63) & 1 != 0
    }

    /// Adds a page; false if it was there.
    @discardableResult
    package func insert(_ page: Int) -> Bool {
        guard page >= 0, page < pageCount else { return false }
        let bit: UInt64 = 1 << UInt64(page & 63)
        return unsafe words[page >> 6].bitwiseOr(bit, ordering: .acquiringAndReleasing).oldValue & bit == 0
    }

    /// Takes a page; false if it was not there.
    package func take(_ page: Int) -> Bool {
        guard page >= 0, page < pageCount else { return false }
        return take(word: page >> 6, mask: 1 << UInt64(page & 63)) != 0
    }

    /// Takes the pages `64 word + i` for each bit `i` of `mask`, and says which were there.
    package func take(word: Int, mask: UInt64 = .max) -> UInt64 {
        guard word >= 0, word < wordCount else { return 0 }
        return unsafe words[word].bitwiseAnd(~mask, ordering: .acquiringAndReleasing).oldValue & mask
    }

    /// Puts pages back that could not be worked on.
    package func put(word: Int, mask: UInt64) {
        guard word >= 0, word < wordCount else { return }
        _ = unsafe words[word].bitwiseOr(mask, ordering: .acquiringAndReleasing)
    }

    /// Calls `body` with each word that `run`, which lies in the region, touches, and the bits that it covers.
    package static func forEachWord(of run: PageRun, _ body: (Int, UInt64) throws -> Void) rethrows {
        var page = run.start.rawValue
        let end = run.end.rawValue
        while page < end {
            let bit = page & 63
            let count = min(64 - bit, end - page)
            let mask = (count == 64 ? UInt64.max : (1 << UInt64(count)) - 1) << UInt64(bit)
            try body(page >> 6, mask)
            page += count
        }
    }

    /// Calls `body` with each run of bits of `mask`, as pages of `word`.
    package static func forEachRun(word: Int, mask: UInt64, _ body: (PageRun) throws -> Void) rethrows {
        var rest = mask
        while rest != 0 {
            let start = rest.trailingZeroBitCount
            let length = (~(rest >> UInt64(start))).trailingZeroBitCount
            try body(PageRun(start: PageIndex(word << 6 + start), count: length))
            if start + length >= 64 { return }
            rest &= UInt64.max << UInt64(start + length)
        }
    }

    /// How many pages there are now.
    package var count: Int {
        var total = 0
        for index in 0..<wordCount { total &+= unsafe words[index].load(ordering: .relaxed).nonzeroBitCount }
        return total
    }

    /// The pages there are now.
    package var snapshot: PageSet {
        var set = PageSet(pageCount: pageCount)
        let copy = (0..<wordCount).map { unsafe words[$0].load(ordering: .acquiring) }
        unsafe copy.withUnsafeBufferPointer { unsafe set.replaceWords(from: PageIndex(0), with: $0) }
        return set
    }
}
