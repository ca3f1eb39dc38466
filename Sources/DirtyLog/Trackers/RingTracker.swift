/// The tracker whose cost follows the dirtied pages and not the size of memory: KVM's dirty rings.

import KVM
import Synchronization
import Units

/// Tracks by one ring a vCPU. The VM must have got its rings (`VirtualMachine.enableDirtyRings`) before its vCPUs were
/// made; the bitmap is then out of reach.
///
/// Pages are protected again when they are harvested, so `rearm` does nothing. A full ring stops its vCPU: the thread
/// that runs it calls `ringFull` and enters the guest again.
public final class RingTracker: DirtyTracker {
    private let vm: VirtualMachine
    private let regions: [TrackedRegion]
    private let written: [AtomicPageSet]
    private let collector: RingCollector
    private let state = Mutex(State())

    private struct State {
        var isLogging = false
        var reportsEverything = false
    }

    /// A tracker of these regions, not started. `vcpus` are all of the VM.
    public init(vm: VirtualMachine, vcpus: [VCPU], regions: [TrackedRegion]) throws {
        let rings = vcpus.compactMap(\.dirtyRing)
        guard !rings.isEmpty, rings.count == vcpus.count else {
            throw DirtyLogError(
                .unsupported,
                "This VM has no dirty rings: they must be asked for before its vCPUs are made "
                    + "(run --dirty-tracker ring).")
        }
        self.vm = vm
        self.regions = regions
        written = regions.map { AtomicPageSet(pageCount: $0.pageCount) }
        collector = RingCollector(vm: vm, rings: rings, regions: regions)
    }

    deinit {
        if state.withLock({ $0.isLogging }) {
            collector.endRepairs()
            try? vm.setLogging(false, of: regions)
            // Nobody else would ever free a vCPU that stands before a full ring.
            collector.collectNow()
        }
        collector.endThread()
    }

    public func start(allSet: Bool) throws {
        try state.withLock { state in
            guard !state.isLogging else {
                throw DirtyLogError(.wrongState, "The dirty log is on already: stop it before it is started again.")
            }
            // What was written before now is not asked for.
            discardOldPages()
            try collector.startThread()
            do {
                try vm.setLogging(true, of: regions)
            } catch {
                collector.endThread()
                throw error
            }
            collector.beginRepairs()
            state.isLogging = true
            state.reportsEverything = allSet
        }
    }

    public func harvest(into sets: inout [PageSet]) throws -> HarvestResult {
        checkSets(sets, for: regions)
        return try state.withLock { state in
            guard state.isLogging else {
                throw DirtyLogError(.wrongState, "The dirty log is off: start it before harvesting.")
            }
            collector.collectNow()
            for index in regions.indices {
                collector.collected[index].drain(into: &sets[index])
                written[index].drain(into: &sets[index])
                if state.reportsEverything { sets[index].insertAll() }
            }
            state.reportsEverything = false
            return collector.takeDoubt().map { .invalid($0) } ?? .complete
        }
    }

    /// Nothing: a harvest protects the pages it reports.
    public func rearm(region: Int, firstPage: PageIndex, words: UnsafeBufferPointer<UInt64>) throws {}

    public func markWritten(region: Int, run: PageRun) {
        written[region].insert(run)
    }

    /// For a vCPU's thread that came back with `dirtyRingFull`: makes room in the rings. The pages found are in the
    /// next harvest. Enter the guest again afterwards; as long as there is no room, KVM comes back at once with the
    /// same exit, so it does no harm that this returns early: after a millisecond, or when the thread is signalled to
    /// stop. Other threads may be waiting here, harvesting or stopping the log at the same time.
    public func ringFull() {
        collector.collectSoon()
    }

    public func stop() throws {
        try state.withLock { state in
            guard state.isLogging else { return }
            collector.endRepairs()
            do {
                try vm.setLogging(false, of: regions)
            } catch {
                collector.beginRepairs()
                throw error
            }
            state.isLogging = false
            // Leaves empty rings to the next start, and lets vCPUs go that stand before a full one.
            collector.collectNow()
            collector.endThread()
        }
    }

    private func discardOldPages() {
        for index in regions.indices {
            var old = PageSet(pageCount: regions[index].pageCount)
            written[index].drain(into: &old)
            collector.collected[index].drain(into: &old)
        }
    }
}
