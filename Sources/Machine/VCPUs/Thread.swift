/// A plain thread. vCPUs and consoles block for long, which Swift's own threads must not.

import CKVM
import Glibc

/// A joinable pthread.
@safe
final class Thread: @unchecked Sendable {
    @unsafe private let handle: pthread_t

    /// Starts a thread whose signals are all blocked except the vCPU kick, and which the kernel shows as `name`.
    init(name: String, _ body: @escaping @Sendable () -> Void) throws(MachineError) {
        let start = unsafe Unmanaged.passRetained(Start(name: name, body: body))
        var handle = pthread_t()
        let status = unsafe pthread_create(&handle, nil, threadMain, start.toOpaque())
        guard status == 0 else {
            unsafe start.release()
            throw MachineError(.hostRefused, "cannot start the thread \(name): error \(status)")
        }
        unsafe self.handle = handle
    }

    /// Sends the signal that makes KVM_RUN return. The thread must not have been joined.
    func kick() { unsafe pthread_kill(handle, ckvm_kick_signal()) }

    /// Waits for the thread's end. Once; a thread that would wait for itself is left to end by itself.
    func join() {
        if isCurrent {
            abandon()
        } else {
            unsafe pthread_join(handle, nil)
        }
    }

    /// Lets the thread end by itself, whenever that is. In the place of `join`.
    func abandon() { unsafe pthread_detach(handle) }

    /// Whether the caller is this thread.
    var isCurrent: Bool { unsafe pthread_equal(handle, pthread_self()) != 0 }

    fileprivate final class Start {
        let name: String
        let body: @Sendable () -> Void
        init(name: String, body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }
}

/// The entry of every thread here: a C callback, so nonisolated and without captures.
private func threadMain(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let argument = unsafe argument else { return nil }
    let start = unsafe Unmanaged<Thread.Start>.fromOpaque(argument).takeRetainedValue()
    // A thread that was made from Swift's concurrency inherits its blocked signals: no kick would arrive.
    _ = ckvm_keep_only_kick_signal()
    _ = unsafe ckvm_set_thread_name(start.name)
    start.body()
    return nil
}
