/// The hash of every page as it was last sent or stored, and with it the digest of all memory.

import CPageKernels
import Units

/// The format's `mix` (DIGEST record): a page's share of the digest.
@inlinable
func mixPageHash(_ hash: UInt64, number: UInt64) -> UInt64 {
    let x = (hash ^ (number &* 0x9E37_79B9_7F4A_7C15)) &* 0xD6E8_FEB8_6659_FD93
    return x ^ (x >> 32)
}

/// A table of page hashes. Lanes work on it at once, each on the pages of its own stripes; each keeps what its pages
/// changed of the digest, and the sums are added at a hand-over (`DigestShare`).
@safe
package final class PageHashes: @unchecked Sendable {
    private let tables: [UnsafeMutableBufferPointer<UInt64>]
    /// The digest of memory full of zeros, where every table starts.
    let zeroDigest: UInt64
    let pageCount: UInt64
    private let zeroHash = mk_zero_page_hash()

    /// A table for regions with these numbers of pages. All pages count as zero.
    package init(pageCounts: [Int]) {
        // Entries hold the hash XOR the zero page's, so that a table of zeros is memory of zeros.
        unsafe tables = pageCounts.map { count in
            let table = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: max(count, 1))
            unsafe table.initialize(repeating: 0)
            return unsafe table
        }
        pageCount = pageCounts.reduce(0) { $0 + UInt64($1) }
        var sum: UInt64 = 0
        for (region, count) in pageCounts.enumerated() {
            for page in 0..<count {
                sum &+= mixPageHash(zeroHash, number: UInt64(region) << 48 | UInt64(page))
            }
        }
        zeroDigest = sum
    }

    deinit { unsafe tables.forEach { unsafe $0.deallocate() } }

    /// Stores the hash of a page. The lane that owns the page calls it.
    @inline(__always)
    package func store(_ hash: UInt64, region: Int, page: Int, share: inout DigestShare) {
        let number = UInt64(region) << 48 | UInt64(page)
        let old = unsafe tables[region][page] ^ zeroHash
        share.sum &+= mixPageHash(hash, number: number) &- mixPageHash(old, number: number)
        unsafe tables[region][page] = hash ^ zeroHash
    }

    /// Stores that a page is zero; false if it was already.
    @inline(__always)
    package func storeZero(region: Int, page: Int, share: inout DigestShare) -> Bool {
        guard unsafe tables[region][page] != 0 else { return false }
        store(zeroHash, region: region, page: page, share: &share)
        return true
    }

    /// The digest, from what every lane changed.
    package func digest(_ shares: [DigestShare]) -> MemoryDigest {
        MemoryDigest(shares.reduce(zeroDigest) { $0 &+ $1.sum })
    }

    /// The digest of memory itself, read now: what tests and `--verify` compare the running sum with. Slow.
    package static func digest(of regions: [MemoryRegion]) -> MemoryDigest {
        let scratch = UnsafeMutableRawPointer.allocate(byteCount: pageByteCount, alignment: 64)
        defer { unsafe scratch.deallocate() }
        let zeroHash = mk_zero_page_hash()
        var sum: UInt64 = 0
        for (number, region) in regions.enumerated() {
            for page in 0..<region.pageCount {
                var hash = zeroHash
                _ = unsafe mk_copy_hash_page(scratch, region.base + page * pageByteCount, &hash)
                sum &+= mixPageHash(hash, number: UInt64(number) << 48 | UInt64(page))
            }
        }
        return MemoryDigest(sum)
    }
}

/// What one lane's pages changed of the digest.
package struct DigestShare: Equatable, Sendable {
    package var sum: UInt64 = 0

    package init() {}
}
