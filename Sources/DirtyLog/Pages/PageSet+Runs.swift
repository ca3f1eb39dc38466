/// Walking a page set in runs: what a round of pre-copy does with it, so it skips empty words fast.

import Units

extension PageSet {
    /// Calls `body` with each maximal run of pages in the set that lies within `range`, in order. Runs are cut at the
    /// ends of `range`.
    @inlinable
    public func forEachRun(in range: PageRun, _ body: (PageRun) throws -> Void) rethrows {
        let range = clipped(range)
        guard range.count > 0 else { return }
        let last = range.end.rawValue - 1
        let firstWord = range.start.rawValue >> 6
        let lastWord = last >> 6
        let lowMask = UInt64.max << UInt64(range.start.rawValue & 63)
        let highMask = UInt64.max >> UInt64(63 - last & 63)

        try unsafe storage.withUnsafeBufferPointer { words in
            // The start of a run that reached the end of the word before, or -1.
            var open = -1
            var index = firstWord
            while index <= lastWord {
                var word = unsafe words[index]
                if word == 0, open < 0 {
                    index &+= 1
                    continue
                }
                if index == firstWord { word &= lowMask }
                if index == lastWord { word &= highMask }
                let base = index << 6
                if open >= 0 {
                    if word == .max {
                        index &+= 1
                        continue
                    }
                    let length = (~word).trailingZeroBitCount
                    try body(PageRun(start: PageIndex(open), count: base &+ length &- open))
                    open = -1
                    word &= word &+ 1
                }
                while word != 0 {
                    let start = word.trailingZeroBitCount
                    // Carrying through the lowest run of ones leaves a single bit behind it, or nothing if the run
                    // goes on in the next word.
                    let behind = (word | (word &- 1)) &+ 1
                    if behind == 0 {
                        open = base &+ start
                        break
                    }
                    let length = behind.trailingZeroBitCount &- start
                    try body(PageRun(start: PageIndex(base &+ start), count: length))
                    word &= behind
                }
                index &+= 1
            }
            if open >= 0 { try body(PageRun(start: PageIndex(open), count: last &+ 1 &- open)) }
        }
    }

    /// Calls `body` with each maximal run of pages in the set, in order.
    @inlinable
    public func forEachRun(_ body: (PageRun) throws -> Void) rethrows {
        try forEachRun(in: allPages, body)
    }

    /// The first run of pages of the set within `range`, cut at its end; nil if there is none. For walks that stop and
    /// go on later; `forEachRun` is faster for whole ones.
    @inlinable
    public func nextRun(in range: PageRun) -> PageRun? {
        let range = clipped(range)
        let end = range.end.rawValue
        guard let start = nextPage(from: range.start.rawValue, to: end, flip: 0) else { return nil }
        let stop = nextPage(from: start, to: end, flip: .max) ?? end
        return PageRun(start: PageIndex(start), count: stop - start)
    }

    /// The maximal runs of the set in order, as a sequence. `forEachRun` is faster.
    @inlinable
    public var runs: Runs { Runs(set: self) }

    /// The runs of a page set.
    public struct Runs: Sequence, IteratorProtocol, Sendable {
        @usableFromInline let set: PageSet
        @usableFromInline var position = 0

        @inlinable
        init(set: PageSet) { self.set = set }

        @inlinable
        public mutating func next() -> PageRun? {
            let rest = PageRun(start: PageIndex(position), count: set.pageCount - position)
            guard let run = set.nextRun(in: rest) else { return nil }
            position = run.end.rawValue
            return run
        }
    }

    /// The first page from `start` and before `end` that is in the set (`flip` zero) or is not (`flip` all ones).
    @inlinable
    func nextPage(from start: Int, to end: Int, flip: UInt64) -> Int? {
        guard start < end else { return nil }
        return unsafe storage.withUnsafeBufferPointer { words in
            var index = start >> 6
            var word = unsafe (words[index] ^ flip) & (UInt64.max << UInt64(start & 63))
            while word == 0 {
                index &+= 1
                if index << 6 >= end { return nil }
                word = unsafe words[index] ^ flip
            }
            let page = index << 6 &+ word.trailingZeroBitCount
            return page < end ? page : nil
        }
    }
}
