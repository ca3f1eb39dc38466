/// What to push next, when faults say where the guest is at work. A value without I/O.

import Units

/// Keeps a few places that the guest works at, and walks on from each of them: upwards by words of 64 pages around a
/// fault, or by the stride of the last three faults where they have one.
package struct Prefetcher: Sendable {
    package enum Suggestion: Equatable, Sendable {
        /// 64 pages at once.
        case word(region: Int, word: Int)
        case page(region: Int, page: Int)
    }

    private struct Pivot {
        var region: Int
        /// A word, or a page where there is a stride.
        var next: Int
        var step: Int
        var isStride: Bool
        var left: Int
        var lastUse: UInt64
    }

    private var pivots: [Pivot] = []
    private var history: [(region: Int, page: Int)] = []
    private var clock: UInt64 = 0

    /// Places that are followed at once.
    private static let pivotLimit = 8
    /// Words walked for each fault: 2 MiB.
    private static let reach = 8
    /// Pages walked for each fault that goes on with a stride.
    private static let strideReach = 16

    package init() {}

    /// Somebody waited for this page.
    package mutating func demand(region: Int, page: Int) {
        clock &+= 1
        history.append((region, page))
        if history.count > 3 { history.removeFirst() }
        if let stride = stride {
            follow(
                Pivot(
                    region: region, next: page &+ stride, step: stride, isStride: true, left: Self.strideReach,
                    lastUse: clock))
        }
        follow(
            Pivot(region: region, next: page >> 6, step: 1, isStride: false, left: Self.reach, lastUse: clock))
    }

    /// The distance of the last three faults from each other, if it is one, and more than a word holds anyway.
    private var stride: Int? {
        guard history.count == 3, history[0].region == history[1].region, history[1].region == history[2].region
        else { return nil }
        let first = history[1].page - history[0].page
        return first == history[2].page - history[1].page && abs(first) > 64 ? first : nil
    }

    private mutating func follow(_ pivot: Pivot) {
        let near = pivots.firstIndex { other in
            guard other.region == pivot.region, other.isStride == pivot.isStride else { return false }
            if pivot.isStride { return other.step == pivot.step }
            // Between where that walk began and a little ahead of it: it only walks on for longer.
            return pivot.next <= other.next && pivot.next >= other.next - 2 * Self.reach
        }
        if let near {
            if pivot.isStride { pivots[near].next = pivot.next }
            pivots[near].left = pivot.left
            pivots[near].lastUse = pivot.lastUse
            return
        }
        if pivots.count == Self.pivotLimit,
            let oldest = pivots.indices.min(by: { pivots[$0].lastUse < pivots[$1].lastUse })
        {
            pivots.remove(at: oldest)
        }
        pivots.append(pivot)
    }

    /// Where to go on; the latest fault's place comes first. Nil when no place is known.
    package mutating func next() -> Suggestion? {
        pivots.removeAll { $0.left == 0 || $0.next < 0 }
        guard let index = pivots.indices.max(by: { pivots[$0].lastUse < pivots[$1].lastUse }) else { return nil }
        defer {
            pivots[index].next &+= pivots[index].step
            pivots[index].left -= 1
        }
        let pivot = pivots[index]
        return pivot.isStride
            ? .page(region: pivot.region, page: pivot.next) : .word(region: pivot.region, word: pivot.next)
    }
}
