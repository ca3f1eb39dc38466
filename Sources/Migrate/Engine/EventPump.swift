/// Feeds a state machine: events from any thread, one at a time, in the order in which they came.

import Synchronization

/// Whoever submits an event while nobody else is at it handles it, and all that come meanwhile, on its own thread. So
/// an event costs no change of threads, and no lock is held while its actions run. An action may submit the event
/// that answers it: it is handled after the actions before it.
package final class EventPump<Event: Sendable>: Sendable {
    private struct State {
        var waiting: [Event] = []
        var isBusy = false
    }

    private let state = Mutex(State())
    private let handle: @Sendable (Event) -> Void

    /// - Parameter handle: handles one event; never called by two threads at once.
    package init(_ handle: @escaping @Sendable (Event) -> Void) { self.handle = handle }

    package func submit(_ event: Event) {
        let isMine = state.withLock { state in
            state.waiting.append(event)
            defer { state.isBusy = true }
            return !state.isBusy
        }
        guard isMine else { return }
        while let next = nextEvent() { handle(next) }
    }

    private func nextEvent() -> Event? {
        state.withLock { state in
            guard !state.waiting.isEmpty else {
                state.isBusy = false
                return nil
            }
            return state.waiting.removeFirst()
        }
    }
}
