/// A mutex with a condition: Swift's Mutex has none.

import Glibc

/// Guards a value; threads can sleep until the value changes.
@safe
final class Monitor<Value>: @unchecked Sendable {
    @unsafe private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    @unsafe private let condition: UnsafeMutablePointer<pthread_cond_t>
    @unsafe private let value: UnsafeMutablePointer<Value>

    init(_ initial: Value) {
        unsafe mutex = .allocate(capacity: 1)
        unsafe condition = .allocate(capacity: 1)
        unsafe value = .allocate(capacity: 1)
        unsafe value.initialize(to: initial)
        unsafe pthread_mutex_init(mutex, nil)
        var attributes = pthread_condattr_t()
        unsafe pthread_condattr_init(&attributes)
        // Deadlines must not jump with the wall clock.
        unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        unsafe pthread_cond_init(condition, &attributes)
        unsafe pthread_condattr_destroy(&attributes)
    }

    deinit {
        unsafe pthread_cond_destroy(condition)
        unsafe pthread_mutex_destroy(mutex)
        unsafe value.deinitialize(count: 1)
        unsafe value.deallocate()
        unsafe condition.deallocate()
        unsafe mutex.deallocate()
    }

    /// Runs `body` alone with the value.
    func withLock<Result, Failure: Error>(_ body: (inout Value) throws(Failure) -> Result) throws(Failure) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        return try unsafe body(&value.pointee)
    }

    /// Runs `body` alone with the value and wakes everybody who waits.
    func change<Result>(_ body: (inout Value) -> Result) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer {
            unsafe pthread_cond_broadcast(condition)
            unsafe pthread_mutex_unlock(mutex)
        }
        return unsafe body(&value.pointee)
    }

    /// Sleeps until `body` returns something. `body` runs alone with the value, first at once and then after each
    /// change.
    func wait<Result>(_ body: (inout Value) -> Result?) -> Result {
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        while true {
            if let result = unsafe body(&value.pointee) { return result }
            unsafe pthread_cond_wait(condition, mutex)
        }
    }

    /// As `wait`, but gives up (nil) at a CLOCK_MONOTONIC instant.
    func wait<Result>(untilNanoseconds deadline: UInt64, _ body: (inout Value) -> Result?) -> Result? {
        var instant = timespec()
        instant.tv_sec = Int(clamping: deadline / 1_000_000_000)
        instant.tv_nsec = Int(deadline % 1_000_000_000)
        unsafe pthread_mutex_lock(mutex)
        defer { unsafe pthread_mutex_unlock(mutex) }
        while true {
            if let result = unsafe body(&value.pointee) { return result }
            let status = unsafe pthread_cond_timedwait(condition, mutex, &instant)
            if status == ETIMEDOUT { return unsafe body(&value.pointee) }
        }
    }
}
