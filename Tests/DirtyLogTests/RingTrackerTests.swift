import CKVM
import DirtyLog
import Foundation
import KVM
import Synchronization
import Testing
import Units

extension OnRealKVM {
    @Suite(.enabled(if: WriterVM.hasRings, "the KVM of this host has no dirty rings"))
    struct RingTrackerTests {
        private func machine(
            _ pageCounts: [Int], vcpuCount: Int = 1, backing: MemoryBacking = .anonymous, entryCount: Int
        ) throws -> (WriterVM, RingTracker) {
            let machine = try WriterVM(
                pageCounts: pageCounts, vcpuCount: vcpuCount, backing: backing, ringEntryCount: entryCount)
            let tracker = try RingTracker(vm: machine.vm, vcpus: machine.vcpus, regions: machine.regions)
            machine.onRingFull = { [unowned tracker] in tracker.ringFull() }
            return (machine, tracker)
        }

        /// With the small ring, most lists overflow it.
        @Test(arguments: [1024, 65536])
        func listsAreExact(entryCount: Int) throws {
            let (machine, tracker) = try machine([8192, 777], entryCount: entryCount)
            try TrackerChecks.expectExactLists(tracker, machine)
        }

        @Test(arguments: [1024, 65536], [MemoryBacking.anonymous, .memfd])
        func nothingIsLostLive(entryCount: Int, backing: MemoryBacking) throws {
            let (machine, tracker) = try machine([8192, 777], vcpuCount: 2, backing: backing, entryCount: entryCount)
            try TrackerChecks.followLive(tracker, machine, "ring of \(entryCount), \(backing)")
        }

        /// The trap of Linux 6.18: a reset by a thread with a pending signal loses pages. Signals rain on the vCPU
        /// threads, and on the process as a whole, while small rings are reset all the time.
        @Test func signalsLoseNothing() throws {
            let (machine, tracker) = try machine([8192], vcpuCount: 2, entryCount: 1024)
            let isRaining = Atomic<Bool>(true)
            let done = DispatchSemaphore(value: 0)
            Thread.detachNewThread {
                _ = ckvm_unblock_kick_signal()
                while isRaining.load(ordering: .sequentiallyConsistent) {
                    machine.kick()
                    kill(getpid(), ckvm_kick_signal())
                    usleep(300)
                }
                done.signal()
            }
            defer {
                isRaining.store(false, ordering: .sequentiallyConsistent)
                done.wait()
            }
            try TrackerChecks.followLive(tracker, machine, "ring under signals")
        }

        /// Entries that someone else took: KVM resets more than the tracker harvested, so the log is not believed. From
        /// the next harvest on it is good again.
        @Test func wrongCountInvalidatesTheLog() throws {
            let (machine, tracker) = try machine([512, 512], entryCount: 1024)
            try tracker.start(allSet: false)
            try machine.write(pages: Array(0..<20))
            let ring = try #require(machine.vcpus[0].dirtyRing)
            var stolen = [kvm_dirty_gfn](repeating: kvm_dirty_gfn(), count: 3)
            #expect(stolen.withUnsafeMutableBufferPointer { ring.harvest(into: $0) } == 3)
            var sets = TrackerChecks.emptySets(machine)
            guard case .invalid(let reason) = try tracker.harvest(into: &sets) else {
                Issue.record("a harvest with three entries missing was called complete")
                return
            }
            #expect(reason.contains("20 of 17"))

            sets = TrackerChecks.emptySets(machine)
            #expect(try tracker.harvest(into: &sets) == .complete)
            try machine.write(pages: [0, 1, 400])
            try machine.write(region: 1, pages: [7])
            sets = TrackerChecks.emptySets(machine)
            #expect(try tracker.harvest(into: &sets) == .complete)
            #expect(
                sets[0].contains(PageIndex(0)) && sets[0].contains(PageIndex(1)) && sets[0].contains(PageIndex(400)))
            #expect(sets[1].contains(PageIndex(7)))
            try tracker.stop()
            // A new start does not remember the old doubt.
            try tracker.start(allSet: true)
            sets = TrackerChecks.emptySets(machine)
            #expect(try tracker.harvest(into: &sets) == .complete)
            #expect(sets.map(\.count) == [512, 512])
            try tracker.stop()
        }

        /// A vCPU that stands before a full ring goes on when the log is stopped.
        @Test func stopFreesAFullRing() throws {
            let (machine, tracker) = try machine([8192], vcpuCount: 2, entryCount: 1024)
            for _ in 0..<5 {
                try tracker.start(allSet: false)
                try machine.startWritingRandomly()
                usleep(20_000)
                try tracker.stop()
                let before = Copy(byteCount: machine.memory[0].byteCount)
                before.take(PageRun(start: PageIndex(0), count: 8192), from: machine.memory[0].base)
                usleep(20_000)
                #expect(!before.differences(from: machine.memory[0].base).isEmpty, "the guest stands still")
                machine.stop()
            }
        }

        /// So it does when the tracker goes away without having been stopped.
        @Test func goingAwayFreesAFullRing() throws {
            let machine = try WriterVM(pageCounts: [8192], vcpuCount: 2, ringEntryCount: 1024)
            var tracker: RingTracker? = try RingTracker(
                vm: machine.vm, vcpus: machine.vcpus, regions: machine.regions)
            // Nobody makes room, so that the rings are full when it goes.
            machine.onRingFull = { usleep(1000) }
            try tracker?.start(allSet: false)
            try machine.startWritingRandomly()
            usleep(50_000)
            tracker = nil
            let before = Copy(byteCount: machine.memory[0].byteCount)
            before.take(PageRun(start: PageIndex(0), count: 8192), from: machine.memory[0].base)
            usleep(50_000)
            #expect(!before.differences(from: machine.memory[0].base).isEmpty, "the guest stands still")
            machine.stop()
        }

        /// A vCPU that waits for room can be stopped quickly, though nobody harvests.
        @Test func waitingForRoomEndsWithAKick() throws {
            let (machine, _) = try machine([8192], entryCount: 1024)
            let tracker = try RingTracker(vm: machine.vm, vcpus: machine.vcpus, regions: machine.regions)
            // Not started: no collector answers.
            let clock = ContinuousClock()
            let time = clock.measure { for _ in 0..<10 { tracker.ringFull() } }
            #expect(time < .seconds(2))
            _ = machine
        }

        @Test func wrongOrderIsRefused() throws {
            let (machine, tracker) = try machine([64], entryCount: 1024)
            var sets = TrackerChecks.emptySets(machine)
            #expect(throws: DirtyLogError.self) { try tracker.harvest(into: &sets) }
            try tracker.start(allSet: false)
            #expect(throws: DirtyLogError.self) { try tracker.start(allSet: false) }
            try tracker.stop()
            try tracker.stop()
        }

        @Test func vmWithoutRingsIsRefused() throws {
            let machine = try WriterVM(pageCounts: [64])
            #expect(throws: DirtyLogError.self) {
                try RingTracker(vm: machine.vm, vcpus: machine.vcpus, regions: machine.regions)
            }
        }

        /// Trackers that are dropped while they log leave no thread behind.
        @Test func droppedTrackersEndTheirThreads() throws {
            let before = threadCount()
            for _ in 0..<20 {
                let (machine, tracker) = try machine([64], entryCount: 1024)
                try tracker.start(allSet: false)
                try machine.write(pages: [1])
            }
            #expect(threadCount(named: "dirty-ring") == 0)
            #expect(threadCount() < before + 20)
        }

        private func threadCount(named name: String? = nil) -> Int {
            let tasks = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task")) ?? []
            guard let name else { return tasks.count }
            return tasks.count { task in
                (try? String(contentsOfFile: "/proc/self/task/\(task)/comm", encoding: .utf8))?.hasPrefix(name) ?? false
            }
        }
    }
}
