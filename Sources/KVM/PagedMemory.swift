/// Guest RAM whose missing pages come from elsewhere: what post-copy needs of userfaultfd, behind one small interface.
///
/// Pages are MISSING and filled by UFFDIO_COPY and UFFDIO_ZEROPAGE, in anonymous memory and memfds alike: one way for
/// both, which installs a checked page and wakes its waiters in one call. (MINOR faults and an alias would spare a memfd
/// one copy of 4 KiB, about 1 us of the 45 us that a fault takes.) Pages of hugetlb memory are 2 MiB, and would have to
/// be complete before the guest sees any of them: they are refused.

import CKVM
import Glibc
import Synchronization
import Units

/// Why guest RAM cannot be paged. `description` is one sentence and says what to do.
public struct PagingUnavailable: Error, CustomStringConvertible, Sendable {
    public var description: String
    public init(_ description: String) { self.description = description }
}

/// The RAM of one VM under a userfaultfd of its own. A page is named `region << 48 | index`.
///
/// Whoever closes a userfaultfd lets the threads that wait for its pages go on with zeros: this object must outlive every
/// vCPU of its VM, unless `disarm` was called after the last page had come.
public final class PagedMemory: Sendable {
    private let memory: [GuestMemory]
    private let fault: Userfaultfd
    /// An eventfd that ends a wait for faults.
    private let interruption: FileDescriptor
    private let isArmed = Mutex(false)
    private let messages: MessageBuffer

    private static let registerMissing: UInt64 = 1

    /// Room for the kernel's messages, so that waiting for faults allocates nothing.
    @safe
    private final class MessageBuffer: @unchecked Sendable {
        let buffer: UnsafeMutableBufferPointer<uffd_msg>
        init() { unsafe buffer = .allocate(capacity: 64) }
        deinit { unsafe buffer.deallocate() }
    }

    /// Opens a userfaultfd; nothing is watched yet.
    /// - Throws: `PagingUnavailable`, with what to do about it.
    public init(_ memory: [GuestMemory]) throws(PagingUnavailable) {
        guard !memory.contains(where: { $0.backing == .hugetlb }) else {
            throw PagingUnavailable(
                "pages cannot follow a VM into hugetlb memory; receive it with --memory-backing anon or memfd")
        }
        let needsShared = memory.contains { $0.backing == .memfd }
        do {
            fault = try Userfaultfd(features: needsShared ? UInt64(UFFD_FEATURE_MISSING_SHMEM) : 0)
        } catch {
            let remedy =
                switch error.errno {
                case EPERM, EACCES:
                    "run sysctl vm.unprivileged_userfaultfd=1, or give the user /dev/userfaultfd, or run as root"
                case ENOSYS, ENOENT: "it needs a kernel with CONFIG_USERFAULTFD"
                default: "migratectl doctor shows what this host offers"
                }
            throw PagingUnavailable("this process may not use userfaultfd (\(error)): \(remedy)")
        }
        let number = ckvm_eventfd(0, O_CLOEXEC | O_NONBLOCK)
        guard number >= 0 else { throw PagingUnavailable("no eventfd can be had: error \(-number)") }
        interruption = FileDescriptor(adopting: number)
        messages = MessageBuffer()
        self.memory = memory
    }

    /// Whether a page that is not there makes whoever touches it wait.
    public var isWatched: Bool { isArmed.withLock { $0 } }

    /// Watches all of memory: from now on a page that is not there waits for `install`. Huge pages are forbidden first, or
    /// khugepaged would fill holes with zeros that never fault.
    public func arm() throws(KVMError) {
        guard !isArmed.withLock({ $0 }) else { return }
        for region in memory {
            // A kernel without transparent huge pages refuses, and needs no forbidding.
            try? region.setHugePages(false)
            try fault.register(start: address(region, 0), byteCount: region.byteCount, mode: Self.registerMissing)
        }
        isArmed.withLock { $0 = true }
    }

    /// Lets nothing wait any more, and allows huge pages again. Pages that are missing read as zeros from then on.
    public func disarm() throws(KVMError) {
        guard isArmed.withLock({ $0 }) else { return }
        for region in memory {
            try fault.unregister(start: address(region, 0), byteCount: region.byteCount)
            try? region.setHugePages(true)
        }
        isArmed.withLock { $0 = false }
    }

    /// Makes pages missing, whatever they hold.
    public func discard(region: Int, run: PageRun) throws(KVMError) {
        try memory[region].discard(offset: run.start.byteOffset, byteCount: run.byteCount)
    }

    /// Waits until threads wait for pages, and writes down which: at most as many as there is room for. For one thread.
    /// - Returns: pages written; 0 after the timeout or `interrupt`.
    public func awaitFaults(
        into pages: UnsafeMutableBufferPointer<UInt64>, timeoutMilliseconds: Int32
    ) throws(KVMError) -> Int {
        var count = try unsafe readFaults(into: pages)
        if count > 0 { return count }
        unsafe withUnsafeTemporaryAllocation(of: pollfd.self, capacity: 2) { descriptors in
            unsafe descriptors[0] = pollfd(fd: fault.fileDescriptor, events: Int16(POLLIN), revents: 0)
            unsafe descriptors[1] = pollfd(fd: interruption.rawValue, events: Int16(POLLIN), revents: 0)
            _ = unsafe poll(descriptors.baseAddress, 2, timeoutMilliseconds)
        }
        count = try unsafe readFaults(into: pages)
        return count
    }

    private func readFaults(into pages: UnsafeMutableBufferPointer<UInt64>) throws(KVMError) -> Int {
        let room = unsafe min(pages.count, messages.buffer.count)
        let slots = unsafe UnsafeMutableBufferPointer(rebasing: messages.buffer[..<room])
        let count = try unsafe fault.readEvents(into: slots)
        var found = 0
        for i in 0..<count {
            guard unsafe slots[i].event == UInt8(UFFD_EVENT_PAGEFAULT),
                let page = unsafe page(at: slots[i].arg.pagefault.address)
            else { continue }
            unsafe pages[found] = page
            found += 1
        }
        return found
    }

    /// Ends a wait for faults, now and for ever.
    public func interrupt() {
        var one: UInt64 = 1
        _ = unsafe write(interruption.rawValue, &one, 8)
    }

    /// Lets the next wait last again.
    public func clearInterruption() {
        var count: UInt64 = 0
        _ = unsafe read(interruption.rawValue, &count, 8)
    }

    /// Fills missing pages and wakes who waits for them. A page that is there already stays as it is.
    public func install(region: Int, run: PageRun, from contents: UnsafeRawPointer) throws(KVMError) {
        try fill(region, run) { start, offset, count throws(KVMError) in
            unsafe try fault.copy(to: start, from: contents + offset, byteCount: count)
        }
    }

    /// Fills missing pages with zeros, as `install` does.
    public func installZeros(region: Int, run: PageRun) throws(KVMError) {
        try fill(region, run) { start, _, count throws(KVMError) in
            try fault.zeroPages(start: start, byteCount: count)
        }
    }

    private func fill(
        _ region: Int, _ run: PageRun, _ body: (UInt64, Int, Int) throws(KVMError) -> Userfaultfd.Progress
    ) throws(KVMError) {
        let base = address(memory[region], run.start.byteOffset)
        var done = 0
        while done < run.byteCount {
            let start = base + UInt64(done)
            let progress = try body(start, done, run.byteCount - done)
            done += progress.byteCount
            guard progress.stop == EEXIST else { continue }
            // It is there already: whoever waits for it is let go, and the rest goes on behind it.
            try fault.wake(start: base + UInt64(done), byteCount: pageByteCount)
            done += pageByteCount
        }
    }

    /// Lets those go on who wait for pages that are there.
    public func wake(region: Int, run: PageRun) throws(KVMError) {
        try fault.wake(start: address(memory[region], run.start.byteOffset), byteCount: run.byteCount)
    }

    private func address(_ region: GuestMemory, _ offset: Int) -> UInt64 {
        unsafe UInt64(UInt(bitPattern: region.base)) + UInt64(offset)
    }

    private func page(at address: UInt64) -> UInt64? {
        for index in memory.indices {
            let start = self.address(memory[index], 0)
            if address >= start, address - start < UInt64(memory[index].byteCount) {
                return UInt64(index) << 48 | (address - start) / UInt64(pageByteCount)
            }
        }
        return nil
    }
}
