/// The ring tracker's own thread: the only one that empties rings and gives their entries back to KVM.

import CKVM
import Glibc
import KVM
import Synchronization
import Units

/// Empties all rings whenever someone asks, and keeps what it found until a harvest takes it.
///
/// `KVM_RESET_DIRTY_RINGS` must not be interrupted: Linux 6.18 was seen to return early with a smaller count when a
/// signal is pending for the calling thread, and to leave pages of the batch unprotected, so that later writes to them
/// are never logged; calling it again does not repair that. Hence a thread of its own with all signals blocked, and a
/// count that is compared each time.
final class RingCollector: Sendable {
    private let vm: VirtualMachine
    private let rings: [DirtyRing]
    private let regions: [TrackedRegion]
    /// Region by slot.
    private let regionOfSlot: [UInt32: Int]

    /// Pages taken out of the rings, by region.
    let collected: [AtomicPageSet]
    private let doubt = Mutex(Doubt())
    /// Whether the log is meant to be on: a repair switches it on again.
    private let mayRepair = Atomic<Bool>(false)

    /// Asked for collections, and finished ones: a collection that finishes with number n began after request n.
    private let requests = EventCount()
    private let completions = EventCount()
    private let isEnding = Atomic<Bool>(false)
    private let thread = Mutex<pthread_t?>(nil)

    private struct Doubt {
        /// Why the log is not to be believed since the last harvest; nil if it is.
        var reason: String?
        /// Whether the log could not be repaired: then no harvest is complete before the next start.
        var isLasting = false
    }

    init(vm: VirtualMachine, rings: [DirtyRing], regions: [TrackedRegion]) {
        self.vm = vm
        self.rings = rings
        self.regions = regions
        regionOfSlot = Dictionary(uniqueKeysWithValues: regions.enumerated().map { (UInt32($1.slot), $0) })
        collected = regions.map { AtomicPageSet(pageCount: $0.pageCount) }
    }

    // MARK: The thread's life

    func startThread() throws {
        try thread.withLock { thread in
            guard thread == nil else { return }
            isEnding.store(false, ordering: .sequentiallyConsistent)
            var new = pthread_t()
            // A thread inherits its maker's mask, so that no signal ever finds it open.
            var all = sigset_t()
            var before = sigset_t()
            unsafe sigfillset(&all)
            unsafe pthread_sigmask(SIG_SETMASK, &all, &before)
            let argument = unsafe Unmanaged.passRetained(self).toOpaque()
            let result = unsafe pthread_create(&new, nil, runCollector, argument)
            unsafe pthread_sigmask(SIG_SETMASK, &before, nil)
            guard result == 0 else {
                unsafe Unmanaged<RingCollector>.fromOpaque(argument).release()
                throw KVMError(operation: "pthread_create", errno: result, subject: "the dirty ring collector")
            }
            thread = new
        }
    }

    /// Ends the thread and waits for it. Threads that wait for a collection go on.
    func endThread() {
        thread.withLock { thread in
            guard let running = thread else { return }
            isEnding.store(true, ordering: .sequentiallyConsistent)
            requests.advance()
            pthread_join(running, nil)
            thread = nil
        }
    }

    fileprivate func run() {
        _ = unsafe ckvm_set_thread_name("dirty-ring")
        var served = completions.value
        while true {
            let asked = requests.value
            if isEnding.load(ordering: .sequentiallyConsistent) {
                completions.advance(to: asked)
                return
            }
            if asked == served {
                requests.wait(while: served)
                continue
            }
            collect()
            served = asked
            completions.advance(to: asked)
        }
    }

    // MARK: Asking

    /// Waits until all entries that are in the rings now are in `collected`, and given back to KVM.
    func collectNow() {
        let ticket = requests.advance()
        while true {
            let seen = completions.value
            if completions.hasReached(ticket) { return }
            completions.wait(while: seen)
        }
    }

    /// The same, but gives up after a millisecond, or on a signal.
    func collectSoon() {
        let ticket = requests.advance()
        let seen = completions.value
        if !completions.hasReached(ticket) { completions.wait(while: seen, nanoseconds: 1_000_000) }
    }

    /// Why pages may have been lost since this was last asked; nil if none were.
    func takeDoubt() -> String? {
        doubt.withLock { doubt in
            defer { if !doubt.isLasting { doubt.reason = nil } }
            return doubt.reason
        }
    }

    /// The log has just been switched on: nothing is doubted yet, and it may be switched off and on for a repair.
    func beginRepairs() {
        doubt.withLock { $0 = Doubt() }
        mayRepair.store(true, ordering: .sequentiallyConsistent)
    }

    /// When this returns, no repair is under way, and none will begin.
    func endRepairs() {
        mayRepair.store(false, ordering: .sequentiallyConsistent)
        collectNow()
    }

    // MARK: Collecting

    private func collect() {
        var taken = 0
        var reason: String?
        let capacity = 1024
        unsafe withUnsafeTemporaryAllocation(of: kvm_dirty_gfn.self, capacity: capacity) { buffer in
            for ring in rings {
                // KVM does not reuse an entry before it is reset: no ring gives more than it has entries.
                while true {
                    let count = unsafe ring.harvest(into: buffer)
                    for index in 0..<count where unsafe !keep(buffer[index]) {
                        let (page, slot) = unsafe (buffer[index].offset, buffer[index].slot)
                        reason = "A dirty ring names page \(page) of slot \(slot), which is not tracked."
                    }
                    taken += count
                    if count < capacity { break }
                }
            }
        }
        guard taken > 0 else { return }
        do {
            // Protects the pages again. A page written between being taken and this is not logged again, but it is
            // read only after the harvest that reports it, which comes later.
            let reset = try vm.resetDirtyRings()
            if reset != taken {
                reason = "KVM_RESET_DIRTY_RINGS took \(reset) of \(taken) entries: pages may have been lost."
            }
        } catch {
            reason = "\(error): pages may have been lost."
        }
        if let reason, mayRepair.load(ordering: .sequentiallyConsistent) { repair(reason) }
    }

    private func keep(_ entry: kvm_dirty_gfn) -> Bool {
        // Address spaces other than 0 (bits 16 and up: system management mode) have slots of their own, which are
        // not ours; then the number is not found.
        guard let region = regionOfSlot[entry.slot], entry.offset < UInt64(regions[region].pageCount) else {
            return false
        }
        collected[region].insert(PageIndex(Int(entry.offset)))
        return true
    }

    /// Makes the log good again for the time after the next harvest, which will be invalid. What a reset left
    /// unprotected is protected again only by switching the log off and on.
    private func repair(_ reason: String) {
        var result = Doubt(reason: reason)
        do {
            // Entries that an early return left behind.
            while try vm.resetDirtyRings() > 0 {}
            try vm.setLogging(false, of: regions)
            try vm.setLogging(true, of: regions)
        } catch {
            result = Doubt(reason: "\(reason) Starting the log again failed too: \(error).", isLasting: true)
        }
        // Only now: whoever hears of the doubt reads all pages, and a write behind that must be logged.
        doubt.withLock { if !$0.isLasting { $0 = result } }
    }
}

/// The thread's entry: a C callback, so a plain function.
private func runCollector(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    if let argument = unsafe argument {
        unsafe Unmanaged<RingCollector>.fromOpaque(argument).takeRetainedValue().run()
    }
    return nil
}
