/// A counter that threads can wait on: how the ring tracker's threads meet.

import CKVM
import Glibc
import Synchronization

/// A number that only grows (and wraps), and a place to sleep until it does.
@safe
final class EventCount: @unchecked Sendable {
    private let word: UnsafeMutablePointer<Atomic<UInt32>>

    init() {
        unsafe word = .allocate(capacity: 1)
        unsafe word.initialize(to: Atomic(0))
    }

    deinit {
        unsafe word.deinitialize(count: 1)
        unsafe word.deallocate()
    }

    var value: UInt32 { unsafe word.pointee.load(ordering: .acquiring) }

    /// Counts one up and wakes all that wait; returns the new value.
    @discardableResult
    func advance() -> UInt32 {
        let new = unsafe word.pointee.wrappingAdd(1, ordering: .acquiringAndReleasing).newValue
        wakeAll()
        return new
    }

    /// Sets the value and wakes all that wait.
    func advance(to new: UInt32) {
        unsafe word.pointee.store(new, ordering: .releasing)
        wakeAll()
    }

    /// Whether the value has come as far as `ticket`.
    func hasReached(_ ticket: UInt32) -> Bool { Int32(bitPattern: value &- ticket) >= 0 }

    /// Sleeps while the value is `seen`. May return early: on a signal, after `nanoseconds` (of less than a second),
    /// or for nothing.
    func wait(while seen: UInt32, nanoseconds: Int? = nil) {
        unsafe word.withMemoryRebound(to: UInt32.self, capacity: 1) { raw in
            if let nanoseconds {
                var time = timespec(tv_sec: 0, tv_nsec: nanoseconds)
                _ = unsafe ckvm_futex_wait(raw, seen, &time)
            } else {
                _ = unsafe ckvm_futex_wait(raw, seen, nil)
            }
        }
    }

    private func wakeAll() {
        unsafe word.withMemoryRebound(to: UInt32.self, capacity: 1) { raw in
            _ = unsafe ckvm_futex_wake(raw, CInt.max)
        }
    }
}
