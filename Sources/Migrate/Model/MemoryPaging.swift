/// What post-copy needs of a VM's memory: pages that are missing, threads that wait for them, and a way to fill them.

import Units

/// The memory of one VM, page by page. A page is named `region << 48 | index`.
///
/// The object must outlive every thread that may touch the VM's memory, unless `disarm` was called after the last page
/// had come: a page that is missing must make its reader wait, and never read as zeros (DESIGN section 8).
public protocol MemoryPaging: AnyObject, Sendable {
    /// From now on a page that is not there makes whoever touches it wait. Without effect the second time.
    func arm() throws
    /// Undoes `arm`. Missing pages read as zeros from then on: only when none is missing, or of a VM that will not run.
    func disarm() throws
    /// Makes pages missing, whatever they hold.
    func discard(region: Int, run: PageRun) throws
    /// Waits until somebody waits for pages, for `timeoutMilliseconds` at most, and writes down which. One thread at a
    /// time. Allocates nothing, and takes no lock that a thread could hold while it waits for a page.
    /// - Returns: pages written down.
    func awaitFaults(into pages: UnsafeMutableBufferPointer<UInt64>, timeoutMilliseconds: Int32) throws -> Int
    /// Ends a wait in `awaitFaults`, and each later one until `clearInterruption`.
    func interrupt()
    func clearInterruption()
    /// Fills missing pages, and lets go on who waits for them. Any thread.
    func install(region: Int, run: PageRun, from contents: UnsafeRawPointer) throws
    /// Fills missing pages with zeros.
    func installZeros(region: Int, run: PageRun) throws
    /// Lets go on who waits for pages that are there by now.
    func wake(region: Int, run: PageRun) throws
}

extension MigratableMachine {
    /// For VMs whose memory cannot be paged.
    public func makePaging() throws -> any MemoryPaging {
        throw Refusal(.incompatible, "this VM's memory cannot be paged, so that post-copy is not possible")
    }
}
