/// The page writer against the record reader, over a real socket: random mixes of pages, holes and gaps.

import DirtyLog
import Glibc
import Migrate
import Synchronization
import Testing
import Units

@Suite struct PageStreamTests {
    /// Memory of its own for a region.
    private final class Memory: @unchecked Sendable {
        let base: UnsafeMutableRawPointer
        let pageCount: Int

        init(pageCount: Int) {
            self.pageCount = pageCount
            base = .allocate(byteCount: pageCount * pageByteCount, alignment: pageByteCount)
            base.initializeMemory(as: UInt8.self, repeating: 0, count: pageCount * pageByteCount)
        }

        deinit { base.deallocate() }

        var region: MemoryRegion {
            MemoryRegion(guestAddress: GuestAddress(0), byteCount: pageCount * pageByteCount, base: base)
        }
    }

    @Test(arguments: [1, 2, 3, 4, 5, 6])
    func whatIsWrittenArrives(seed: UInt64) async throws {
        try await hostile {
            var generator = Xorshift(seed: seed &* 0x9E37_79B9)
            let counts = [700, 1, 512, 1300]
            let source = counts.map { Memory(pageCount: $0) }
            let target = counts.map { Memory(pageCount: $0) }
            // A destination that an earlier attempt used is not empty.
            let sent = PageHashes(pageCounts: counts)
            let stored = PageHashes(pageCounts: counts)
            var sockets: [CInt] = [0, 0]
            check(socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0, &sockets) == 0)
            let incoming = Connection(descriptor: sockets[1], peer: "writer")
            let outcome = Mutex<Result<(DigestShare, UInt64), any Error>?>(nil)
            let receiver = try PlainThread(name: "reader") {
                let result = Result { try Self.receive(from: incoming, into: target, stored) }
                outcome.withLock { $0 = result }
            }
            var writer = try PageWriter(
                Connection(descriptor: sockets[0], peer: "reader"), greeting: .laneReady(0), recorder: nil)
            var share = DigestShare()
            for _ in 0..<40 {
                let region = Int(generator.next() % UInt64(counts.count))
                let memory = source[region]
                for _ in 0..<generator.next() % 200 { Self.scribble(memory, &generator) }
                var page = Int(generator.next() % UInt64(counts[region]))
                while page < counts[region] {
                    let count = min(1 + Int(generator.next() % 90), counts[region] - page)
                    let run = PageRun(start: PageIndex(page), count: count)
                    if generator.next() % 5 == 0 {
                        memset(memory.base + run.start.byteOffset, 0, run.byteCount)
                        try writer.sendHole(run, region: region, hashes: sent, share: &share)
                    } else {
                        try writer.send(run, region: region, base: memory.base, hashes: sent, share: &share)
                    }
                    page += count + Int(generator.next() % 30)
                }
            }
            try writer.flush()
            let counted = writer.counts
            try writer.send(.end(StreamTotals(records: 0, pages: counted.pages)))
            receiver.join()
            let (storedShare, pages) = try require(outcome.withLock { $0 }).get()
            check(pages == counted.pages)
            check(sent.digest([share]) == stored.digest([storedShare]))
            // The running sum is the digest of what lies in memory at the target.
            check(stored.digest([storedShare]) == PageHashes.digest(of: target.map(\.region)))
            // Regions are bare pointers: what owns the memory must outlive them.
            withExtendedLifetime((source, target)) {}
        }
    }

    /// Makes a page all zeros, or not at all, or only at its last byte.
    private static func scribble(_ memory: Memory, _ generator: inout Xorshift) {
        let page = memory.base + Int(generator.next() % UInt64(memory.pageCount)) * pageByteCount
        switch generator.next() % 3 {
        case 0: memset(page, 0, pageByteCount)
        case 1: page.storeBytes(of: UInt8(truncatingIfNeeded: generator.next()), toByteOffset: 4095, as: UInt8.self)
        default:
            for word in 0..<512 { page.storeBytes(of: generator.next(), toByteOffset: word * 8, as: UInt64.self) }
        }
    }

    private static func receive(
        from connection: Connection, into target: [Memory], _ hashes: PageHashes
    ) throws -> (DigestShare, UInt64) {
        var reader = RecordReader(connection)
        var share = DigestShare()
        var pages: UInt64 = 0
        _ = try reader.readStreamHeader()
        while let next = try reader.next() {
            switch next {
            case .record(.end): return (share, pages)
            case .record: continue
            case .pages(let head):
                pages += UInt64(head.run.count)
                let first = head.run.start.rawValue
                let base = target[head.region].base + head.run.start.byteOffset
                if head.encoding == .raw {
                    check(head.run.start.stripe == PageIndex(first + head.run.count - 1).stripe)
                    for (i, hash) in reader.pageHashes.enumerated() {
                        hashes.store(hash, region: head.region, page: first + i, share: &share)
                    }
                    try reader.readPages(
                        into: UnsafeMutableRawBufferPointer(start: base, count: head.run.byteCount))
                } else {
                    for i in 0..<head.run.count
                    where hashes.storeZero(region: head.region, page: first + i, share: &share) {
                        memset(base + i * pageByteCount, 0, pageByteCount)
                    }
                }
            }
        }
        return (share, pages)
    }
}
