/// Page faults of real threads, served through the handle.

import CKVM
import Glibc
import KVM
import Synchronization
import Testing
import Units

private let hasUserfaultfd = (try? Userfaultfd()) != nil
private let noUserfaultfd: Comment = "no userfaultfd: needs /dev/userfaultfd or vm.unprivileged_userfaultfd=1"

/// A feature bit that the kernel offers.
private func offers(_ feature: Int32) -> Bool {
    (try? Userfaultfd()).map { $0.features & UInt64(feature) != 0 } ?? false
}

@Suite(.enabled(if: hasUserfaultfd, noUserfaultfd))
struct UserfaultfdTests {
    private let page = 4096

    private func address(_ memory: GuestMemory, _ index: Int = 0) -> UInt64 {
        UInt64(UInt(bitPattern: memory.base)) + UInt64(index * page)
    }

    /// Waits for one event.
    private func nextEvent(_ fault: Userfaultfd) throws -> uffd_msg {
        var events = [uffd_msg()]
        while try events.withUnsafeMutableBufferPointer({ try fault.readEvents(into: $0) }) == 0 { usleep(500) }
        return events[0]
    }

    @Test func fillsPagesByHand() throws {
        let fault = try Userfaultfd()
        let memory = try GuestMemory(byteCount: 2 << 20, backing: .anonymous)
        try memory.setHugePages(false)
        try fault.register(start: address(memory), byteCount: 2 << 20, mode: UInt64(1))
        let bytes = [UInt8](repeating: 0x5a, count: page)
        #expect(try fault.copy(to: address(memory), from: bytes, byteCount: page) == .init(byteCount: page, stop: 0))
        #expect(memory.base.load(as: UInt8.self) == 0x5a)
        #expect(try fault.copy(to: address(memory), from: bytes, byteCount: page).stop == EEXIST)
        #expect(try fault.zeroPages(start: address(memory, 1), byteCount: 2 * page).byteCount == 2 * page)
        #expect(memory.base.load(fromByteOffset: page, as: UInt8.self) == 0)
        var events = [uffd_msg()]
        #expect(try events.withUnsafeMutableBufferPointer { try fault.readEvents(into: $0) } == 0)
        try fault.unregister(start: address(memory), byteCount: 2 << 20)
    }

    /// A copy that meets a page which is there already says how far it got.
    @Test func progressIsTold() throws {
        let fault = try Userfaultfd()
        let memory = try GuestMemory(byteCount: 2 << 20, backing: .anonymous)
        try memory.setHugePages(false)
        try fault.register(start: address(memory), byteCount: 2 << 20, mode: 1)
        let bytes = [UInt8](repeating: 1, count: 8 * page)
        _ = try fault.zeroPages(start: address(memory, 5), byteCount: page)
        let first = try fault.copy(to: address(memory), from: bytes, byteCount: 8 * page)
        #expect(first.byteCount == 5 * page && first.stop != 0)
        let second = try fault.copy(to: address(memory, 5), from: bytes, byteCount: 3 * page)
        #expect(second == .init(byteCount: 0, stop: EEXIST))
        #expect(try fault.copy(to: address(memory, 6), from: bytes, byteCount: 2 * page).stop == 0)
    }

    /// A thread waits for a page until it comes.
    @Test func aFaultIsServed() throws {
        let fault = try Userfaultfd()
        let memory = try GuestMemory(byteCount: 2 << 20, backing: .anonymous)
        try memory.setHugePages(false)
        try fault.register(start: address(memory), byteCount: 2 << 20, mode: 1)
        let seen = Mutex<UInt8>(0)
        let reader = Worker { seen.withLock { $0 = memory.base.load(fromByteOffset: 7 * 4096 + 9, as: UInt8.self) } }
        let event = try nextEvent(fault)
        #expect(event.event == UInt8(UFFD_EVENT_PAGEFAULT))
        #expect(event.arg.pagefault.address & ~4095 == address(memory, 7))
        _ = try fault.copy(to: address(memory, 7), from: [UInt8](repeating: 0x77, count: page), byteCount: page)
        reader.join()
        #expect(seen.withLock { $0 } == 0x77)
    }

    /// The first write to a protected page waits until the page is let through.
    @Test(.enabled(if: offers(UFFD_FEATURE_PAGEFAULT_FLAG_WP), "this kernel has no write protection by userfaultfd"))
    func aWriteIsHeld() throws {
        let fault = try Userfaultfd(features: UInt64(UFFD_FEATURE_PAGEFAULT_FLAG_WP))
        let memory = try GuestMemory(byteCount: 2 << 20, backing: .anonymous)
        try memory.setHugePages(false)
        try memory.populate()
        try fault.register(start: address(memory), byteCount: 2 << 20, mode: 2)
        try fault.writeProtect(start: address(memory), byteCount: 2 << 20, isProtected: true)
        #expect(memory.base.load(fromByteOffset: page, as: UInt8.self) == 0)
        let writer = Worker { memory.base.storeBytes(of: 3, toByteOffset: 3 * 4096, as: UInt8.self) }
        let event = try nextEvent(fault)
        #expect(event.arg.pagefault.address & ~4095 == address(memory, 3))
        #expect(event.arg.pagefault.flags & UInt64(UFFD_PAGEFAULT_FLAG_WP) != 0)
        #expect(memory.base.load(fromByteOffset: 3 * page, as: UInt8.self) == 0)
        try fault.writeProtect(start: address(memory, 3), byteCount: page, isProtected: false)
        writer.join()
        #expect(memory.base.load(fromByteOffset: 3 * page, as: UInt8.self) == 3)
    }

    /// A page that came into the file through an alias is only mapped.
    @Test(.enabled(if: offers(UFFD_FEATURE_MINOR_SHMEM), "this kernel has no minor faults for shared memory"))
    func anAliasFillsThePage() throws {
        let fault = try Userfaultfd(features: UInt64(UFFD_FEATURE_MINOR_SHMEM))
        let memory = try GuestMemory(byteCount: 2 << 20, backing: .memfd)
        let alias = try #require(try memory.makeAlias())
        try fault.register(start: address(memory), byteCount: 2 << 20, mode: 4)
        alias.base.storeBytes(of: 0x2468, toByteOffset: 4 * page, as: UInt64.self)
        let seen = Mutex<UInt64>(0)
        let reader = Worker { seen.withLock { $0 = memory.base.load(fromByteOffset: 4 * 4096, as: UInt64.self) } }
        let event = try nextEvent(fault)
        #expect(event.arg.pagefault.flags & UInt64(UFFD_PAGEFAULT_FLAG_MINOR) != 0)
        #expect(try fault.mapExisting(start: address(memory, 4), byteCount: page).stop == 0)
        reader.join()
        #expect(seen.withLock { $0 } == 0x2468)
        #expect(try fault.mapExisting(start: address(memory, 4), byteCount: page).stop == EEXIST)
    }

    /// Pages change their place without a copy. Needs Linux 6.8.
    @Test(.enabled(if: offers(UFFD_FEATURE_MOVE), "this kernel cannot move pages (UFFDIO_MOVE, Linux 6.8)"))
    func pagesMove() throws {
        let fault = try Userfaultfd(features: UInt64(UFFD_FEATURE_MOVE))
        let memory = try GuestMemory(byteCount: 2 << 20, backing: .anonymous)
        try memory.setHugePages(false)
        let pool = try GuestMemory(byteCount: 2 << 20, backing: .anonymous)
        try pool.setHugePages(false)
        pool.base.storeBytes(of: 0x1357, toByteOffset: 0, as: UInt64.self)
        try fault.register(start: address(memory), byteCount: 2 << 20, mode: 1)
        #expect(try fault.move(to: address(memory, 2), from: address(pool), byteCount: page).stop == 0)
        #expect(memory.base.load(fromByteOffset: 2 * page, as: UInt64.self) == 0x1357)
        #expect(pool.base.load(as: UInt64.self) == 0)
    }
}

/// A plain thread.
private final class Worker: @unchecked Sendable {
    private var handle = pthread_t()

    init(_ body: @escaping @Sendable () -> Void) {
        let box = Unmanaged.passRetained(Box(body))
        pthread_create(
            &handle, nil,
            { argument in
                guard let argument else { return nil }
                Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().body()
                return nil
            }, box.toOpaque())
    }

    func join() { pthread_join(handle, nil) }

    private final class Box {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
}
