import DirtyLog
import Foundation
import KVM
import Testing
import Units

extension OnRealKVM {
    @Suite(.enabled(if: PagemapTracker.isSupported, "needs Linux 6.7 (PAGEMAP_SCAN) and the right to userfaultfd"))
    struct PagemapTrackerTests {
        @Test(arguments: [MemoryBacking.anonymous, .memfd], [false, true])
        func listsAreExact(backing: MemoryBacking, hasHugePages: Bool) throws {
            let machine = try WriterVM(pageCounts: [2048, 777], backing: backing, hasHugePages: hasHugePages)
            try TrackerChecks.expectExactLists(try PagemapTracker(regions: machine.regions), machine)
        }

        @Test(arguments: [MemoryBacking.anonymous, .memfd], [false, true])
        func nothingIsLostLive(backing: MemoryBacking, hasHugePages: Bool) throws {
            let machine = try WriterVM(
                pageCounts: [8192, 777], vcpuCount: 2, backing: backing, hasHugePages: hasHugePages)
            let tracker = try PagemapTracker(regions: machine.regions)
            try TrackerChecks.followLive(tracker, machine, "pagemap, \(backing), huge pages \(hasHugePages)")
        }

        /// Writes by this process are seen without being marked.
        @Test func unmarkedWritesAreSeen() throws {
            let machine = try WriterVM(pageCounts: [512, 512])
            let tracker = try PagemapTracker(regions: machine.regions)
            try tracker.start(allSet: false)
            machine.memory[1].base.storeBytes(of: 1, toByteOffset: 17 * 4096, as: UInt8.self)
            var sets = TrackerChecks.emptySets(machine)
            #expect(try tracker.harvest(into: &sets) == .complete)
            #expect(sets[0].isEmpty)
            #expect(Array(sets[1].runs) == [run(17, 1)])
            try tracker.stop()
        }

        /// The kernel takes page table entries of shared memory away when it wants; what was written must not be
        /// forgotten with them.
        @Test func droppedEntriesOfSharedPagesAreNotForgotten() throws {
            let machine = try WriterVM(pageCounts: [1024], backing: .memfd)
            let tracker = try PagemapTracker(regions: machine.regions)
            try tracker.start(allSet: false)
            try machine.write(pages: [3, 700])
            #expect(madvise(machine.memory[0].base, machine.memory[0].byteCount, MADV_DONTNEED) == 0)
            var sets = TrackerChecks.emptySets(machine)
            #expect(try tracker.harvest(into: &sets) == .complete)
            #expect(sets[0].contains(PageIndex(3)) && sets[0].contains(PageIndex(700)))
            try TrackerChecks.rearmAll(tracker, sets)
            sets = TrackerChecks.emptySets(machine)
            #expect(try tracker.harvest(into: &sets) == .complete)
            #expect(sets[0].isEmpty)
            try machine.write(pages: [4])
            #expect(try tracker.harvest(into: &sets) == .complete)
            #expect(Array(sets[0].runs) == [run(4, 1)])
            try tracker.stop()
        }

        /// Memory that nobody has touched: clean until it is written, and then dirty.
        @Test(arguments: [MemoryBacking.anonymous, .memfd], [false, true])
        func unpopulatedMemory(backing: MemoryBacking, allSet: Bool) throws {
            let memory = try GuestMemory(byteCount: 8 << 20, backing: backing)
            try memory.setHugePages(false)
            let region = TrackedRegion(
                slot: 0, guestAddress: GuestAddress(0), base: memory.base, pageCount: 2048, backing: backing)
            let tracker = try PagemapTracker(regions: [region])
            try tracker.start(allSet: allSet)
            var sets = [PageSet(pageCount: 2048)]
            _ = try tracker.harvest(into: &sets)
            #expect(sets[0].count == (allSet ? 2048 : 0))
            if allSet { try TrackerChecks.rearmAll(tracker, sets) }
            memory.base.storeBytes(of: 1, toByteOffset: 1000 * 4096, as: UInt8.self)
            sets = [PageSet(pageCount: 2048)]
            _ = try tracker.harvest(into: &sets)
            #expect(sets[0].contains(PageIndex(1000)))
            try tracker.stop()
        }

        /// Pages that lie between the given ones and were written meanwhile are protected with them, and reported later.
        @Test func pagesInBetweenAreReportedLater() throws {
            let machine = try WriterVM(pageCounts: [512])
            let tracker = try PagemapTracker(regions: machine.regions)
            try tracker.start(allSet: false)
            try machine.write(pages: [10, 300])
            var sets = TrackerChecks.emptySets(machine)
            _ = try tracker.harvest(into: &sets)
            #expect(sets[0].count == 2)
            try machine.write(pages: [200])
            try TrackerChecks.rearmAll(tracker, sets)
            sets = TrackerChecks.emptySets(machine)
            _ = try tracker.harvest(into: &sets)
            #expect(Array(sets[0].runs) == [run(200, 1)])
            try tracker.stop()
        }

        /// Hugetlb memory goes by 2 MiB: a written page is reported with its huge page, and none is lost.
        @Test(.enabled(if: freeHugePages >= 4, "needs 4 free huge pages (echo 8 > /proc/sys/vm/nr_hugepages)"))
        func hugetlbMemory() throws {
            let machine = try WriterVM(pageCounts: [2048], backing: .hugetlb)
            let tracker = try PagemapTracker(regions: machine.regions)
            try tracker.start(allSet: true)
            var sets = TrackerChecks.emptySets(machine)
            _ = try tracker.harvest(into: &sets)
            #expect(sets[0].count == 2048)
            try TrackerChecks.rearmAll(tracker, sets)
            try machine.write(pages: [513, 2047])
            sets = TrackerChecks.emptySets(machine)
            _ = try tracker.harvest(into: &sets)
            #expect(Array(sets[0].runs) == [run(512, 512), run(1536, 512)])
            // Half a huge page given: the other half is not forgotten.
            try [UInt64.max].withUnsafeBufferPointer {
                try tracker.rearm(region: 0, firstPage: PageIndex(512), words: $0)
            }
            sets = TrackerChecks.emptySets(machine)
            _ = try tracker.harvest(into: &sets)
            #expect(Array(sets[0].runs) == [run(576, 448), run(1536, 512)])
            try tracker.stop()
        }

        private static let freeHugePages: Int = {
            let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
            let text = try? String(contentsOfFile: path, encoding: .utf8)
            return text.flatMap { Int($0.trimmingCharacters(in: .whitespacesAndNewlines)) } ?? 0
        }()

        private func run(_ start: Int, _ count: Int) -> PageRun { PageRun(start: PageIndex(start), count: count) }

        @Test func wrongOrderIsRefused() throws {
            let machine = try WriterVM(pageCounts: [64])
            let tracker = try PagemapTracker(regions: machine.regions)
            var sets = TrackerChecks.emptySets(machine)
            #expect(throws: DirtyLogError.self) { try tracker.harvest(into: &sets) }
            try tracker.start(allSet: false)
            #expect(throws: DirtyLogError.self) { try tracker.start(allSet: false) }
            try tracker.stop()
            try tracker.stop()
        }
    }
}
