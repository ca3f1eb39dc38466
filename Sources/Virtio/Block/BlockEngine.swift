/// Ways to do a disk's I/O: io_uring, or plain calls where the host does not let us have it.

import CLibURing
import Glibc

/// One call on a file.
@safe
package enum BlockOperation {
    @unsafe case read(CInt, UnsafePointer<iovec>, count: Int, offset: UInt64)
    @unsafe case write(CInt, UnsafePointer<iovec>, count: Int, offset: UInt64)
    case synchronize(CInt)
    case allocate(CInt, mode: CInt, offset: UInt64, byteCount: UInt64)
}

/// Takes operations and gives back their results, in any order. One thread at a time.
package protocol BlockEngine: AnyObject {
    /// Becomes readable when an operation ended.
    var eventDescriptor: CInt? { get }
    /// Operations were accepted that the kernel has not taken yet: `submit` is to be called again.
    var hasUnsubmitted: Bool { get }
    /// Accepts an operation. What its pointers refer to stays until its end.
    func start(_ operation: BlockOperation, tag: UInt64)
    /// Hands over what was accepted.
    func submit()
    /// Takes the results that are there; with `wait`, at least one, if anything is under way.
    func take(wait: Bool) -> [(tag: UInt64, result: Int)]
}

/// io_uring.
@safe
final class RingEngine: BlockEngine {
    @unsafe private let ring: OpaquePointer
    private let event: CInt
    private(set) var hasUnsubmitted = false

    /// nil and the reason where the kernel, or a seccomp filter, refuses.
    static func make(depth: Int) -> (engine: RingEngine?, error: CInt) {
        var ring: OpaquePointer?
        var event: CInt = -1
        let result = unsafe cur_ring_create(UInt32(clamping: depth), &ring, &event)
        guard result == 0, let ring = unsafe ring else { return (nil, -result) }
        return (unsafe RingEngine(ring, event), 0)
    }

    private init(_ ring: OpaquePointer, _ event: CInt) {
        unsafe self.ring = ring
        self.event = event
    }

    deinit { unsafe cur_ring_destroy(ring) }

    var eventDescriptor: CInt? { event }

    func start(_ operation: BlockOperation, tag: UInt64) {
        hasUnsubmitted = true
        // The ring has an entry for every operation that may be under way: it is full only while the kernel, short of
        // memory, takes none.
        while queue(operation, tag) == -EBUSY {
            if unsafe cur_ring_submit(ring, 0) < 0 { poll(nil, 0, 1) }
        }
    }

    private func queue(_ operation: BlockOperation, _ tag: UInt64) -> CInt {
        switch operation {
        case .read(let file, let vectors, let count, let offset):
            return unsafe cur_ring_readv(ring, file, vectors, UInt32(clamping: count), offset, tag)
        case .write(let file, let vectors, let count, let offset):
            return unsafe cur_ring_writev(ring, file, vectors, UInt32(clamping: count), offset, tag)
        case .synchronize(let file): return unsafe cur_ring_fdatasync(ring, file, tag)
        case .allocate(let file, let mode, let offset, let byteCount):
            return unsafe cur_ring_fallocate(ring, file, mode, offset, byteCount, tag)
        }
    }

    func submit() {
        guard hasUnsubmitted else { return }
        // EAGAIN, EBUSY, EINTR: later. Entries that were not taken stay in the ring.
        hasUnsubmitted = unsafe cur_ring_submit(ring, 0) < 0
    }

    func take(wait: Bool) -> [(tag: UInt64, result: Int)] {
        cur_eventfd_clear(event)
        var taken: [(tag: UInt64, result: Int)] = []
        while true {
            var (tag, result): (UInt64, Int32) = (0, 0)
            while unsafe cur_ring_take(ring, &tag, &result) { taken.append((tag, Int(result))) }
            guard wait, taken.isEmpty else { return taken }
            let submitted = unsafe cur_ring_submit(ring, 1)
            if submitted >= 0 {
                hasUnsubmitted = false
            } else if submitted != -EINTR {
                poll(nil, 0, 1)
            }
        }
    }
}

/// pread(2) and pwrite(2) on the device's thread: one operation at a time, done when it is started.
final class SynchronousEngine: BlockEngine {
    private var done: [(tag: UInt64, result: Int)] = []

    /// None is needed: whoever starts an operation takes its result before it waits.
    var eventDescriptor: CInt? { nil }
    var hasUnsubmitted: Bool { !done.isEmpty }

    func start(_ operation: BlockOperation, tag: UInt64) {
        let result: Int
        switch operation {
        case .read(let file, let vectors, let count, let offset):
            result = unsafe cur_preadv(file, vectors, CInt(clamping: count), offset)
        case .write(let file, let vectors, let count, let offset):
            result = unsafe cur_pwritev(file, vectors, CInt(clamping: count), offset)
        case .synchronize(let file): result = Int(cur_fdatasync(file))
        case .allocate(let file, let mode, let offset, let byteCount):
            result = Int(cur_fallocate(file, mode, offset, byteCount))
        }
        done.append((tag, result))
    }

    func submit() {}

    func take(wait: Bool) -> [(tag: UInt64, result: Int)] {
        defer { done = [] }
        return done
    }
}
