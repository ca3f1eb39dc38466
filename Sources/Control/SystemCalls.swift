/// The few system calls that the control plane makes, behind owning handles and Swift errors.

import Glibc

/// What the C library calls an error number ("No such file or directory").
func errnoDescription(_ code: Int32) -> String {
    var buffer = [CChar](repeating: 0, count: 128)
    // The POSIX variant: it fills the buffer. (Glibc's own returns a string instead; Swift does not see that one.)
    guard unsafe strerror_r(code, &buffer, buffer.count) == 0 else { return "error \(code)" }
    return String(decoding: buffer.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
}

/// A file descriptor that closes itself.
final class Descriptor: Sendable {
    let raw: Int32

    init(_ raw: Int32) { self.raw = raw }
    deinit { close(raw) }
}

/// Nanoseconds of CLOCK_MONOTONIC.
func monotonicNanoseconds() -> UInt64 {
    var now = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &now)
    return UInt64(now.tv_sec) * 1_000_000_000 + UInt64(now.tv_nsec)
}

/// A moment on CLOCK_MONOTONIC by which something must be done.
package struct Deadline: Sendable {
    let nanoseconds: UInt64

    package init(after duration: Duration) {
        let (seconds, attoseconds) = duration.components
        let wait = UInt64(max(0, min(seconds, 1_000_000))) * 1_000_000_000 + UInt64(max(0, attoseconds) / 1_000_000_000)
        nanoseconds = monotonicNanoseconds() + wait
    }

    /// What is left, as `poll` wants it: rounded up, so that a wait never ends just before the deadline and spins.
    var pollTimeout: Int32 {
        let now = monotonicNanoseconds()
        guard nanoseconds > now else { return 0 }
        return Int32(clamping: (nanoseconds - now + 999_999) / 1_000_000)
    }

    var hasPassed: Bool { monotonicNanoseconds() >= nanoseconds }
}

/// Waits until the descriptor is ready for `events`, or until the deadline. Returns what it is ready for; 0 says
/// that the deadline passed.
func waitReady(_ descriptor: Int32, for events: Int16, until deadline: Deadline?) -> Int16 {
    while true {
        var entry = pollfd(fd: descriptor, events: events, revents: 0)
        let ready = unsafe poll(&entry, 1, deadline?.pollTimeout ?? -1)
        if ready > 0 { return entry.revents }
        if ready == 0 { return 0 }
        if errno != EINTR { return Int16(POLLERR) }
    }
}

/// Runs `body` on a new detached thread with a small stack and every signal blocked: signals belong to the thread
/// that waits for them, and a thread that is never interrupted needs no loop round each call.
@discardableResult
func startThread(_ name: String, _ body: @escaping @Sendable () -> Void) -> Bool {
    final class Start: Sendable {
        let name: String
        let body: @Sendable () -> Void
        init(_ name: String, _ body: @escaping @Sendable () -> Void) {
            self.name = name
            self.body = body
        }
    }
    var attributes = pthread_attr_t()
    unsafe pthread_attr_init(&attributes)
    defer { unsafe pthread_attr_destroy(&attributes) }
    unsafe pthread_attr_setstacksize(&attributes, 512 * 1024)
    unsafe pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))

    var all = sigset_t()
    var before = sigset_t()
    unsafe sigfillset(&all)
    unsafe pthread_sigmask(SIG_SETMASK, &all, &before)
    defer { unsafe pthread_sigmask(SIG_SETMASK, &before, nil) }

    let start = unsafe Unmanaged.passRetained(Start(name, body))
    var thread = pthread_t()
    let result = unsafe pthread_create(
        &thread, &attributes,
        { argument in
            guard let argument = unsafe argument else { return nil }
            let start = unsafe Unmanaged<Start>.fromOpaque(argument).takeRetainedValue()
            nameThread(start.name)
            start.body()
            return nil
        }, start.toOpaque())
    if result != 0 {
        unsafe start.release()
        return false
    }
    return true
}

/// Names the calling thread, for `top -H` and debuggers. Through /proc, since Glibc's Swift module hides the call.
private func nameThread(_ name: String) {
    let raw = unsafe open("/proc/thread-self/comm", O_WRONLY | O_CLOEXEC)
    guard raw >= 0 else { return }
    let descriptor = Descriptor(raw)
    let bytes = Array(name.utf8.prefix(15))
    _ = unsafe bytes.withUnsafeBytes { unsafe write(descriptor.raw, $0.baseAddress, $0.count) }
}
