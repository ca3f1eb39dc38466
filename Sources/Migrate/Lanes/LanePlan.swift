/// Which lane carries which pages. Both sides compute it, and a destination refuses a page on the wrong lane.

import Glibc
import Units

/// Stripes of 2 MiB dealt to lanes in turn, so that a page always travels on the same lane.
package struct LanePlan: Equatable, Sendable {
    package var laneCount: Int

    package init(laneCount: Int) { self.laneCount = laneCount }

    @inline(__always)
    package func lane(region: Int, stripe: Int) -> Int { (region &+ stripe) % laneCount }

    /// A lane for each core, at most four. Two lanes on two cores moved 1 GiB over loopback in about half the time of one
    /// (docs/performance.md): while one waits for the other side, the other works.
    package static var defaultLaneCount: Int {
        min(max(sysconf(CInt(_SC_NPROCESSORS_ONLN)), 1), 4)
    }
}
