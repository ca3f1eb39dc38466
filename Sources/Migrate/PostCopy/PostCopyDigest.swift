/// What FINAL of post-copy vouches for: the pages that are there, the state, and which pages will follow.

import DirtyLog
import Units

enum PostCopyDigest {
    /// - Parameter memory: the digest of memory, pages that follow counted as zeros.
    static func digest(memory: MemoryDigest, state: [StateSection], stale: [PageSet]) -> MemoryDigest {
        var stateHash: UInt64 = 0
        for section in state { stateHash = hashBytes(Record.state(section).payload, seed: stateHash) }
        var staleHash: UInt64 = 0
        for set in stale {
            unsafe set.words.withUnsafeBytes { staleHash = unsafe hashBytes($0, seed: staleHash) }
        }
        return MemoryDigest(
            memory.rawValue &+ mixPageHash(stateHash, number: 1 << 63 | 1)
                &+ mixPageHash(staleHash, number: 1 << 63 | 2))
    }

    /// Counts the pages that follow as zeros.
    static func takeBack(_ stale: [PageSet], from hashes: PageHashes, share: inout DigestShare) {
        for (region, set) in stale.enumerated() {
            set.forEachRun { run in
                for page in run.start.rawValue..<run.end.rawValue {
                    _ = hashes.storeZero(region: region, page: page, share: &share)
                }
            }
        }
    }
}
