/// The dirty log as its users see it, whatever the kernel mechanism below.

import Units

/// What a harvest is worth.
public enum HarvestResult: Equatable, Sendable {
    /// The sets hold every page written since the page was last rearmed.
    case complete
    /// Writes may have been lost (for the reason given): every page must count as dirty.
    case invalid(String)
}

/// A log of the guest pages written since they were last looked at, for all regions of one VM.
///
/// The order that loses nothing, for each chunk of pages: `harvest`, then `rearm` exactly the pages that will be
/// sent, then read them. A page written after `rearm` is in the next harvest. Pages that were harvested and not yet
/// rearmed may be reported again.
public protocol DirtyTracker: AnyObject, Sendable {
    /// Starts logging. The first harvest may report pages that were never written; it reports each that was written
    /// after `start` returned. With `allSet`, the first harvest reports every page.
    func start(allSet: Bool) throws

    /// Adds the pages written since they were last rearmed to `sets` (one set a region, sized by the caller).
    /// Called by one thread at a time.
    func harvest(into sets: inout [PageSet]) throws -> HarvestResult

    /// Protects pages again, just before they are read: bit `i` of `words` stands for page `firstPage + i`, and
    /// `firstPage` is a multiple of 64. Only pages that a harvest has reported may be set. Trackers that protect at
    /// harvest do nothing here. Called from several lane threads at once, on disjoint ranges.
    func rearm(region: Int, firstPage: PageIndex, words: UnsafeBufferPointer<UInt64>) throws

    /// Records a write by the VMM itself, which KVM's logs do not see. From any thread, before the guest can learn
    /// of the write.
    func markWritten(region: Int, run: PageRun)

    /// Stops logging and gives back what it cost the guest. Not while the VM is paused for a hand-over (DESIGN
    /// section 5): dropping a log can take tens of milliseconds.
    func stop() throws
}
