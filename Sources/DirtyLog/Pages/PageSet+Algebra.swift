/// Whole sets: counting, union, difference, intersection.

import Units

extension PageSet {
    /// How many pages are in the set.
    @inlinable
    public var count: Int {
        var total = 0
        for word in storage { total &+= word.nonzeroBitCount }
        return total
    }

    /// Whether no page is in the set.
    @inlinable
    public var isEmpty: Bool {
        for word in storage where word != 0 { return false }
        return true
    }

    /// Adds the pages of `other`, a set over the same region.
    @inlinable
    public mutating func formUnion(_ other: PageSet) {
        combine(other) { $0 |= $1 }
    }

    /// Takes the pages of `other`, a set over the same region, out.
    @inlinable
    public mutating func subtract(_ other: PageSet) {
        combine(other) { $0 &= ~$1 }
    }

    /// Keeps only the pages that are in `other`, a set over the same region, too.
    @inlinable
    public mutating func formIntersection(_ other: PageSet) {
        combine(other) { $0 &= $1 }
    }

    /// Whether every page of this set is in `other`, a set over the same region.
    public func isSubset(of other: PageSet) -> Bool {
        precondition(other.pageCount == pageCount, "sets over different regions")
        return zip(storage, other.storage).allSatisfy { $0 & ~$1 == 0 }
    }

    @inlinable
    mutating func combine(_ other: PageSet, _ operation: (inout UInt64, UInt64) -> Void) {
        precondition(other.pageCount == pageCount, "sets over different regions")
        unsafe storage.withUnsafeMutableBufferPointer { mine in
            unsafe other.storage.withUnsafeBufferPointer { theirs in
                for index in 0..<mine.count { unsafe operation(&mine[index], theirs[index]) }
            }
        }
    }
}
