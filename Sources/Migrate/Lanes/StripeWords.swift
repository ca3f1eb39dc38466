/// The bits of one stripe: at most eight words, on the stack.

import DirtyLog
import Units

/// A set of pages of one stripe. Bit `i` of word `w` is page `64 w + i` of the stripe.
package struct StripeWords {
    private var words: InlineArray<8, UInt64> = .init(repeating: 0)
    /// Words that belong to the region: fewer than eight at a region's end.
    package let count: Int

    package init(count: Int) { self.count = count }

    /// The stripe's bits out of a region's.
    package init(_ set: PageSet, stripe: Int) {
        let first = stripe * pagesPerStripe
        count = max(0, min(words.count, (set.pageCount - first + 63) / 64))
        guard count > 0 else { return }
        unsafe withMutableWords { unsafe set.copyWords(from: PageIndex(first), to: $0) }
    }

    package var isEmpty: Bool {
        var folded: UInt64 = 0
        for i in 0..<count { folded |= words[i] }
        return folded == 0
    }

    package mutating func formIntersection(_ other: StripeWords) {
        for i in 0..<count { words[i] &= other.words[i] }
    }

    package func subtracting(_ other: StripeWords) -> StripeWords {
        var result = self
        for i in 0..<count { result.words[i] &= ~other.words[i] }
        return result
    }

    package mutating func withWords<R>(_ body: (UnsafeBufferPointer<UInt64>) throws -> R) rethrows -> R {
        try unsafe withMutableWords { try unsafe body(UnsafeBufferPointer($0)) }
    }

    package mutating func withMutableWords<R>(_ body: (UnsafeMutableBufferPointer<UInt64>) throws -> R) rethrows -> R {
        let count = count
        // SAFETY: an InlineArray is its elements, one behind the other.
        return try unsafe withUnsafeMutableBytes(of: &words) { bytes in
            try unsafe body(UnsafeMutableBufferPointer(rebasing: bytes.bindMemory(to: UInt64.self)[..<count]))
        }
    }

    /// Calls `body` with each run of set bits, as pages counted from `first`.
    package func forEachRun(from first: PageIndex, _ body: (PageRun) throws -> Void) rethrows {
        var start = 0
        var length = 0
        for i in 0..<count {
            var word = words[i]
            var page = i * 64
            while word != 0 {
                let zeros = word.trailingZeroBitCount
                page += zeros
                word >>= UInt64(zeros)
                let ones = (~word).trailingZeroBitCount
                if length > 0, start + length == page {
                    length += ones
                } else {
                    if length > 0 { try body(PageRun(start: PageIndex(first.rawValue + start), count: length)) }
                    start = page
                    length = ones
                }
                page += ones
                word = ones == 64 ? 0 : word >> UInt64(ones)
            }
        }
        if length > 0 { try body(PageRun(start: PageIndex(first.rawValue + start), count: length)) }
    }
}
