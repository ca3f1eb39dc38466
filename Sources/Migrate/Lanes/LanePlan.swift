/// Which lane carries which pages. Both sides compute it, and a destination refuses a page on the wrong lane.

import Glibc
import Units

/// Stripes of 2 MiB dealt to lanes in turn, so that a page always travels on the same lane.
struct LanePlan: Equatable, Sendable {
    var laneCount: Int

    @inline(__always)
    func lane(region: Int, stripe: Int) -> Int { (region &+ stripe) % laneCount }

    /// One lane for each core but one, at least one, at most four: a lane keeps a core busy on each side, and a guest
    /// needs its own.
    static var defaultLaneCount: Int {
        let cores = sysconf(CInt(_SC_NPROCESSORS_ONLN))
        return min(max(cores - 1, 1), 4)
    }
}
