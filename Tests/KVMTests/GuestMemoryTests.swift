/// Guest RAM mappings, their population, and userfaultfd.

import CKVM
import Glibc
import KVM
import Testing
import Units

/// Huge pages that the host has free right now.
private func freeHugePages() -> Int {
    guard let file = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "r") else { return 0 }
    defer { fclose(file) }
    var line = [CChar](repeating: 0, count: 32)
    guard fgets(&line, 32, file) != nil else { return 0 }
    return atoi(line).magnitude > 0 ? Int(atoi(line)) : 0
}

@Suite struct GuestMemoryTests {
    static let backings: [MemoryBacking] = [.anonymous, .memfd]

    @Test(arguments: backings)
    func isAlignedZeroAndWritable(_ backing: MemoryBacking) throws {
        let memory = try GuestMemory(byteCount: 6 << 20, backing: backing)
        #expect(UInt(bitPattern: memory.base) % UInt(GuestMemory.hugePageByteCount) == 0)
        #expect(memory.base.load(fromByteOffset: (6 << 20) - 8, as: UInt64.self) == 0)
        memory.base.storeBytes(of: 0x1122, toByteOffset: 4096, as: UInt64.self)
        try memory.populate()
        #expect(memory.base.load(fromByteOffset: 4096, as: UInt64.self) == 0x1122)
    }

    /// Population as the migration reads it: exactly the pages written, plus what huge pages round up to.
    @Test(arguments: backings)
    func populationFollowsWrites(_ backing: MemoryBacking) throws {
        let memory = try GuestMemory(byteCount: 8 << 20, backing: backing)
        try memory.setHugePages(false)
        let pagemap = try Pagemap()
        for page in [0, 5, 511, 512, 1000, 2047] {
            memory.base.storeBytes(of: 1, toByteOffset: page * 4096, as: UInt8.self)
        }
        // A read maps the shared zero page, which is not population.
        #expect(memory.base.load(fromByteOffset: 700 * 4096, as: UInt8.self) == 0)
        var words = [UInt64](repeating: .max, count: 32)
        try words.withUnsafeMutableBufferPointer {
            try pagemap.readPopulation(of: memory, firstPage: PageIndex(0), words: $0)
        }
        let found = (0..<2048).filter { words[$0 / 64] >> UInt64($0 % 64) & 1 == 1 }
        // A read of a memfd's hole allocates its page. Before Linux 6.7 the zero page cannot be told from others.
        let countsReads = backing == .memfd || (backing == .anonymous && !pagemap.canScan)
        let expected = countsReads ? [0, 5, 511, 512, 700, 1000, 2047] : [0, 5, 511, 512, 1000, 2047]
        #expect(found == expected)

        // A window in the middle that ends behind the memory's end.
        var tail = [UInt64](repeating: .max, count: 32)
        try tail.withUnsafeMutableBufferPointer {
            try pagemap.readPopulation(of: memory, firstPage: PageIndex(960), words: $0)
        }
        let tailFound = (0..<2048).filter { tail[$0 / 64] >> UInt64($0 % 64) & 1 == 1 }.map { $0 + 960 }
        #expect(tailFound == [1000, 2047])
    }

    /// The way of kernels before 6.7 agrees with the scan.
    @Test func populationWithoutScan() throws {
        let memory = try GuestMemory(byteCount: 4 << 20, backing: .anonymous)
        try memory.setHugePages(false)
        for page in [3, 600, 1023] { memory.base.storeBytes(of: 1, toByteOffset: page * 4096, as: UInt8.self) }
        let old = Pagemap(adopting: open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), canScan: false)
        var words = [UInt64](repeating: 0, count: 16)
        try words.withUnsafeMutableBufferPointer {
            try old.readPopulation(of: memory, firstPage: PageIndex(0), words: $0)
        }
        #expect((0..<1024).filter { words[$0 / 64] >> UInt64($0 % 64) & 1 == 1 } == [3, 600, 1023])
    }

    @Test(arguments: backings)
    func discardedPagesAreZeroAgain(_ backing: MemoryBacking) throws {
        let memory = try GuestMemory(byteCount: 4 << 20, backing: backing)
        memory.base.storeBytes(of: 7, toByteOffset: 8192, as: UInt64.self)
        try memory.discard(offset: 8192, byteCount: 4096)
        #expect(memory.base.load(fromByteOffset: 8192, as: UInt64.self) == 0)
    }

    @Test func anAliasSharesTheBytes() throws {
        let memory = try GuestMemory(byteCount: 2 << 20, backing: .memfd)
        let alias = try #require(try memory.makeAlias())
        alias.base.storeBytes(of: 0xabcd, toByteOffset: 64, as: UInt64.self)
        #expect(memory.base.load(fromByteOffset: 64, as: UInt64.self) == 0xabcd)
        #expect(try GuestMemory(byteCount: 2 << 20, backing: .anonymous).makeAlias() == nil)
    }

    /// Needs reserved huge pages: `echo 8 > /proc/sys/vm/nr_hugepages`.
    @Test(.enabled(if: freeHugePages() >= 2, "no free huge pages: write to /proc/sys/vm/nr_hugepages"))
    func hugePagesWork() throws {
        let memory = try GuestMemory(byteCount: 4 << 20, backing: .hugetlb)
        try memory.populate(offset: 0, byteCount: 2 << 20)
        var words = [UInt64](repeating: 0, count: 16)
        try words.withUnsafeMutableBufferPointer {
            try Pagemap().readPopulation(of: memory, firstPage: PageIndex(0), words: $0)
        }
        #expect(words[0..<8].allSatisfy { $0 == .max } && words[8...].allSatisfy { $0 == 0 })
    }
}
