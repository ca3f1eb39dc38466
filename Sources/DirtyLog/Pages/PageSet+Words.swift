/// The bitmap's words: how a stripe's bits travel between a set, KVM and a lane, 64 pages at a time.
///
/// `firstPage` is a multiple of 64 everywhere, and the last word of a region may stand for fewer than 64 pages: bits
/// beyond the region are ignored on the way in and zero on the way out.

import Units

extension PageSet {
    /// Calls `body` with the words that cover `run`, whose start is a multiple of 64. The pointer is valid only there.
    @inlinable
    public func withWords<Result>(
        covering run: PageRun, _ body: (UnsafeBufferPointer<UInt64>) throws -> Result
    ) rethrows -> Result {
        let indices = wordIndices(firstPage: run.start, wordCount: (run.count + 63) / 64)
        return try unsafe storage.withUnsafeBufferPointer { words in
            try unsafe body(UnsafeBufferPointer(rebasing: words[indices]))
        }
    }

    /// Copies the words from `firstPage` on out to `destination`, as many as fit there.
    @inlinable
    public func copyWords(from firstPage: PageIndex, to destination: UnsafeMutableBufferPointer<UInt64>) {
        let first = wordIndices(firstPage: firstPage, wordCount: destination.count).lowerBound
        for index in 0..<destination.count { unsafe destination[index] = storage[first + index] }
    }

    /// Moves the words from `firstPage` on to `destination`, as many as fit there: these pages leave the set.
    @inlinable
    public mutating func takeWords(from firstPage: PageIndex, to destination: UnsafeMutableBufferPointer<UInt64>) {
        let first = wordIndices(firstPage: firstPage, wordCount: destination.count).lowerBound
        for index in 0..<destination.count {
            unsafe destination[index] = storage[first + index]
            storage[first + index] = 0
        }
    }

    /// Replaces the words from `firstPage` on.
    @inlinable
    public mutating func replaceWords(from firstPage: PageIndex, with source: UnsafeBufferPointer<UInt64>) {
        unsafe combineWords(from: firstPage, with: source) { $0 = $1 }
    }

    /// Adds the pages whose bits are set in `source`; its first bit is `firstPage`.
    @inlinable
    public mutating func insertWords(from firstPage: PageIndex, of source: UnsafeBufferPointer<UInt64>) {
        unsafe combineWords(from: firstPage, with: source) { $0 |= $1 }
    }

    /// Takes the pages whose bits are set in `source` out; its first bit is `firstPage`.
    @inlinable
    public mutating func removeWords(from firstPage: PageIndex, of source: UnsafeBufferPointer<UInt64>) {
        unsafe combineWords(from: firstPage, with: source) { $0 &= ~$1 }
    }

    @inlinable
    mutating func combineWords(
        from firstPage: PageIndex, with source: UnsafeBufferPointer<UInt64>,
        _ operation: (inout UInt64, UInt64) -> Void
    ) {
        let indices = wordIndices(firstPage: firstPage, wordCount: source.count)
        guard !indices.isEmpty else { return }
        unsafe storage.withUnsafeMutableBufferPointer { words in
            for index in indices { unsafe operation(&words[index], source[index - indices.lowerBound]) }
        }
        storage[storage.count - 1] &= lastWordMask
    }

    /// The bits of the last word that stand for pages.
    @inlinable
    var lastWordMask: UInt64 { UInt64.max >> UInt64((64 - pageCount & 63) & 63) }

    @inlinable
    func wordIndices(firstPage: PageIndex, wordCount: Int) -> Range<Int> {
        let first = firstPage.rawValue >> 6
        precondition(firstPage.rawValue & 63 == 0, "words start at multiples of 64 pages")
        precondition(first >= 0 && wordCount >= 0 && wordCount <= storage.count - first, "words outside of the set")
        return first..<first + wordCount
    }
}
