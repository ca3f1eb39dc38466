/// A set of pages of one memory region, as a bitmap.

import Units

/// Bit `i` of word `w` stands for page `64 w + i`. Bits beyond `pageCount` are zero.
public struct PageSet: Equatable, Sendable {
    public let pageCount: Int
    public internal(set) var words: [UInt64]

    /// An empty set over `pageCount` pages.
    public init(pageCount: Int) {
        self.pageCount = pageCount
        self.words = Array(repeating: 0, count: (pageCount + 63) / 64)
    }
}
