/// Tells the network, after a move, where a guest is now.

import CLibURing
import Glibc
import Synchronization

/// Sends a frame a few times after a move: one may get lost while bridges still learn.
final class NetworkAnnouncer: Sendable {
    private struct State {
        var remaining = 0
        var due: UInt64 = 0
        var guestAnnounces = false
    }

    private let frame: [UInt8]
    private let state = Mutex(State())

    /// As QEMU does: five, at growing distances.
    private static let delays: [UInt64] = [0, 50, 150, 250, 350]

    init(frame: [UInt8]) { self.frame = [UInt8](repeating: 0, count: NetworkPort.headerByteCount) + frame }

    var guestAnnounces: Bool { state.withLock { $0.guestAnnounces } }
    func setGuestAnnounces(_ value: Bool) { state.withLock { $0.guestAnnounces = value } }

    func begin() { state.withLock { ($0.remaining, $0.due) = (Self.delays.count, Self.now) } }

    var millisecondsToNext: Int32? {
        state.withLock { state in
            guard state.remaining > 0 else { return nil }
            let now = Self.now
            return state.due > now ? Int32(clamping: state.due - now) : 0
        }
    }

    func sendDue(to port: NetworkPort) {
        let isDue = state.withLock { state in
            guard state.remaining > 0, state.due <= Self.now else { return false }
            state.remaining -= 1
            if state.remaining > 0 { state.due = Self.now + Self.delays[Self.delays.count - state.remaining] }
            return true
        }
        guard isDue else { return }
        var frame = frame
        unsafe frame.withUnsafeMutableBytes { bytes in
            var vector = unsafe iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
            // Best effort: there are more to come.
            _ = unsafe cur_writev(port.descriptor, &vector, 1)
        }
    }

    private static var now: UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_MONOTONIC, &time)
        return UInt64(clamping: time.tv_sec) &* 1000 &+ UInt64(clamping: time.tv_nsec / 1_000_000)
    }
}
