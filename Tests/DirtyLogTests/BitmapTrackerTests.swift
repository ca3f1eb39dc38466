import DirtyLog
import Foundation
import KVM
import Testing
import Units

extension OnRealKVM {
    @Suite struct BitmapTrackerTests {
        /// The other tests rest upon this guest: does it write where it should?
        @Test func guestWritesWhereItShould() throws {
            let machine = try WriterVM(pageCounts: [1024, 777])
            try machine.write(pages: [3, 9, 1023], value: 40)
            try machine.write(region: 1, pages: [776], value: 50)
            try machine.read(pages: [3])
            #expect(machine.memory[0].base.load(fromByteOffset: 9 * 4096, as: UInt64.self) == 41)
            #expect(machine.memory[1].base.load(fromByteOffset: 776 * 4096, as: UInt64.self) == 50)
            try machine.startWritingRandomly()
            usleep(20_000)
            #expect(machine.stop() > 1000)
        }

        @Test(arguments: BitmapTracker.Mode.allCases)
        func listsAreExact(mode: BitmapTracker.Mode) throws {
            let machine = try WriterVM(pageCounts: [2048, 777])
            let tracker = try BitmapTracker(vm: machine.vm, regions: machine.regions, best: mode)
            #expect(tracker.mode <= mode)
            try TrackerChecks.expectExactLists(tracker, machine)
        }

        @Test(arguments: BitmapTracker.Mode.allCases, [MemoryBacking.anonymous, .memfd])
        func nothingIsLostLive(mode: BitmapTracker.Mode, backing: MemoryBacking) throws {
            let machine = try WriterVM(pageCounts: [8192, 777], vcpuCount: 2, backing: backing, hasHugePages: true)
            let tracker = try BitmapTracker(vm: machine.vm, regions: machine.regions, best: mode)
            try TrackerChecks.followLive(tracker, machine, "bitmap, \(mode), \(backing)")
        }

        /// A tracker that was told nothing of the VMM's writes must show it in the comparison: the test would be blind
        /// otherwise.
        @Test func comparisonSeesUnmarkedWrites() throws {
            let machine = try WriterVM(pageCounts: [512, 512])
            let tracker = try BitmapTracker(vm: machine.vm, regions: machine.regions)
            let copies = machine.memory.map { Copy(byteCount: $0.byteCount) }
            try tracker.start(allSet: true)
            #expect(try TrackerChecks.copyRound(tracker, machine, to: copies) == 1024)
            machine.memory[1].base.storeBytes(of: 1, toByteOffset: 17 * 4096, as: UInt8.self)
            #expect(try TrackerChecks.copyRound(tracker, machine, to: copies) == 0)
            #expect(copies[1].differences(from: machine.memory[1].base) == [17])
            try tracker.stop()
        }

        /// Late clearing: a page is reported until it is rearmed, and only the given pages are rearmed.
        @Test(arguments: [BitmapTracker.Mode.manual, .manualInitiallySet])
        func onlyRearmedPagesAreForgotten(mode: BitmapTracker.Mode) throws {
            let machine = try WriterVM(pageCounts: [256])
            let tracker = try BitmapTracker(vm: machine.vm, regions: machine.regions, best: mode)
            try #require(tracker.mode == mode, "this host does not offer \(mode)")
            try tracker.start(allSet: false)
            var sets = TrackerChecks.emptySets(machine)
            _ = try tracker.harvest(into: &sets)
            try TrackerChecks.rearmAll(tracker, sets)

            try machine.write(pages: [1, 2, 130])
            sets = TrackerChecks.emptySets(machine)
            _ = try tracker.harvest(into: &sets)
            #expect(Array(sets[0].runs) == [run(1, 2), run(130, 1)])
            try [UInt64(1 << 1), 0, 0, 0].withUnsafeBufferPointer {
                try tracker.rearm(region: 0, firstPage: PageIndex(0), words: $0)
            }
            sets = TrackerChecks.emptySets(machine)
            _ = try tracker.harvest(into: &sets)
            #expect(Array(sets[0].runs) == [run(2, 1), run(130, 1)])
            try machine.write(pages: [1])
            try [UInt64(1 << 2)].withUnsafeBufferPointer {
                try tracker.rearm(region: 0, firstPage: PageIndex(128), words: $0)
            }
            sets = TrackerChecks.emptySets(machine)
            _ = try tracker.harvest(into: &sets)
            #expect(Array(sets[0].runs) == [run(1, 2)])
            try tracker.stop()
        }

        @Test(arguments: BitmapTracker.Mode.allCases)
        func startCanReportEverything(mode: BitmapTracker.Mode) throws {
            let machine = try WriterVM(pageCounts: [512, 777])
            let tracker = try BitmapTracker(vm: machine.vm, regions: machine.regions, best: mode)
            for _ in 0..<2 {
                try tracker.start(allSet: true)
                var sets = TrackerChecks.emptySets(machine)
                #expect(try tracker.harvest(into: &sets) == .complete)
                #expect(sets.map(\.count) == [512, 777])
                try TrackerChecks.rearmAll(tracker, sets)
                sets = TrackerChecks.emptySets(machine)
                #expect(try tracker.harvest(into: &sets) == .complete)
                #expect(sets.map(\.count) == [0, 0])
                try tracker.stop()
            }
        }

        @Test func wrongOrderIsRefused() throws {
            let machine = try WriterVM(pageCounts: [64])
            let tracker = try BitmapTracker(vm: machine.vm, regions: machine.regions)
            var sets = TrackerChecks.emptySets(machine)
            #expect(throws: DirtyLogError.self) { try tracker.harvest(into: &sets) }
            try tracker.start(allSet: false)
            #expect(throws: DirtyLogError.self) { try tracker.start(allSet: false) }
            try tracker.stop()
            try tracker.stop()
        }

        @Test(.enabled(if: WriterVM.hasRings, "this KVM has no dirty rings"))
        func vmWithRingsIsRefused() throws {
            let machine = try WriterVM(pageCounts: [64], ringEntryCount: 1024)
            #expect(throws: DirtyLogError.self) { try BitmapTracker(vm: machine.vm, regions: machine.regions) }
        }

        private func run(_ start: Int, _ count: Int) -> PageRun { PageRun(start: PageIndex(start), count: count) }
    }
}
