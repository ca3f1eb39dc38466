/// The far end of a serial line: keeps what the guest wrote, and passes it on without holding the guest up.

import CKVM

/// Serial output of a machine. The guest's writes never wait for whoever reads them: what a slow reader does not fetch
/// in time drops out of the bounded history.
final class SerialConsole: Sendable {
    private struct State {
        /// The newest bytes.
        var history: [UInt8] = []
        /// Bytes ever written, the last `history.count` of which are kept.
        var total: UInt64 = 0
        /// How far the sink has got.
        var delivered: UInt64 = 0
        var isClosed = false
        /// The sink has everything, and its thread ends.
        var isDone = false
    }

    private let limit: Int
    private let state: Monitor<State>
    private let thread: Thread?

    init(limit: Int, sink: SerialSink?) throws(MachineError) {
        let limit = max(limit, 4096)
        let state = Monitor(State())
        self.limit = limit
        self.state = state
        guard let sink else {
            thread = nil
            return
        }
        thread = try Thread(name: "console") { Self.deliver(from: state, to: sink) }
    }

    /// Adds a byte from the guest.
    func write(_ byte: UInt8) { write(CollectionOfOne(byte)) }

    /// Adds bytes from the guest.
    func write(_ bytes: some Collection<UInt8>) {
        let limit = limit
        state.change { state in
            state.history.append(contentsOf: bytes)
            state.total += UInt64(bytes.count)
            // Cut in large steps, so that a byte costs little.
            if state.history.count > limit * 2 { state.history.removeFirst(state.history.count - limit) }
        }
    }

    /// The bytes kept, oldest first, and the number of those that were written before them.
    var history: (skipped: UInt64, bytes: [UInt8]) {
        let limit = limit
        return state.withLock { state in
            let kept = Array(state.history.suffix(limit))
            return (state.total - UInt64(kept.count), kept)
        }
    }

    /// Ends the sink's thread once it has passed on all that was written. A sink that is stuck (a pipe that nobody
    /// reads) is waited for two seconds, and then left behind.
    func close() {
        let wasClosed = state.change { state in
            defer { state.isClosed = true }
            return state.isClosed
        }
        guard !wasClosed, let thread else { return }
        let deadline = ckvm_monotonic_nanoseconds() + 2_000_000_000
        let isDone = state.wait(untilNanoseconds: deadline) { $0.isDone || thread.isCurrent ? true : nil } ?? false
        if isDone { thread.join() } else { thread.abandon() }
    }

    private static func deliver(from state: Monitor<State>, to sink: SerialSink) {
        while true {
            let batch: [UInt8]? = state.wait { state -> [UInt8]?? in
                let missing = state.total - state.delivered
                guard missing > 0 else { return state.isClosed ? .some(nil) : nil }
                let bytes = Array(state.history.suffix(Int(min(missing, UInt64(state.history.count)))))
                state.delivered = state.total
                return .some(bytes)
            }
            guard let batch else {
                state.change { $0.isDone = true }
                return
            }
            sink(batch)
            // Guests write a byte at a time: a short rest makes lines of them, and leaves the CPU to the guest.
            let isClosed = state.withLock { $0.isClosed }
            if !isClosed {
                _ = state.wait(untilNanoseconds: ckvm_monotonic_nanoseconds() + 2_000_000) { $0.isClosed ? true : nil }
            }
        }
    }
}
