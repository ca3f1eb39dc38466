/// SIGINT, SIGTERM and SIGHUP, taken by one thread that waits for them. All others have them blocked.

import Glibc
import Migrate

enum Signals {
    /// Blocks the signals for this thread and those it makes from now on, and calls `handler` on a thread of its own for
    /// each that arrives. Call it before any other thread is made.
    static func watch(_ handler: @escaping @Sendable (Int32) -> Void) throws {
        var set = sigset_t()
        sigemptyset(&set)
        for signal in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&set, signal) }
        pthread_sigmask(SIG_BLOCK, &set, nil)
        try PlainThread.detached(name: "signals") {
            var set = sigset_t()
            sigemptyset(&set)
            for signal in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&set, signal) }
            while true {
                var number: Int32 = 0
                if sigwait(&set, &number) == 0 { handler(number) }
            }
        }
    }

    static func name(_ number: Int32) -> String {
        switch number {
        case SIGINT: "SIGINT"
        case SIGTERM: "SIGTERM"
        case SIGHUP: "SIGHUP"
        default: "signal \(number)"
        }
    }
}
