/// A pthread that runs one closure. Data-plane threads block; the cooperative pool must not (DESIGN section 2).

import Glibc

/// A running thread, to be joined once.
@safe
public final class PlainThread: @unchecked Sendable {
    private let handle: pthread_t

    /// What the new thread takes over.
    private final class Start {
        let body: () -> Void

        init(_ body: @escaping () -> Void) { self.body = body }
    }

    /// Starts a thread with all signals blocked: kicks and terminations are for other threads.
    /// - Parameter name: for messages.
    public init(name: String, _ body: @escaping @Sendable () -> Void) throws {
        handle = try Self.start(name, body)
    }

    /// Starts a thread that nobody waits for.
    public static func detached(name: String, _ body: @escaping @Sendable () -> Void) throws {
        pthread_detach(try start(name, body))
    }

    private static func start(_ name: String, _ body: @escaping () -> Void) throws -> pthread_t {
        var handle = pthread_t()
        let start = unsafe Unmanaged.passRetained(Start(body))
        var all = sigset_t()
        var before = sigset_t()
        // Blocked before the start, so that there is no moment in which the new thread could take one.
        unsafe sigfillset(&all)
        unsafe pthread_sigmask(SIG_BLOCK, &all, &before)
        let result = unsafe pthread_create(&handle, nil, runPlainThread, start.toOpaque())
        unsafe pthread_sigmask(SIG_SETMASK, &before, nil)
        guard result == 0 else {
            unsafe start.release()
            throw TransportError(.failed, "cannot start thread \(name): \(errorText(result))")
        }
        return handle
    }

    /// Waits for its end. Not from the thread itself, and once.
    public func join() {
        pthread_join(handle, nil)
    }

    fileprivate static func run(_ opaque: UnsafeMutableRawPointer) {
        let start = unsafe Unmanaged<Start>.fromOpaque(opaque).takeRetainedValue()
        start.body()
    }
}

/// The C entry point: a nonisolated function, since closures may inherit an isolation.
private func runPlainThread(_ opaque: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    if let opaque = unsafe opaque { unsafe PlainThread.run(opaque) }
    return nil
}
