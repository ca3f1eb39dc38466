/// Feeds a state machine: events from any thread, one at a time, in the order in which they came.

import Synchronization

/// Whoever submits an event while nobody else is at it handles it, and all that come meanwhile, on its own thread. So
/// an event costs no change of threads, and no lock is held while its actions run. An action may submit the event
/// that answers it: it is handled after the actions before it.
package final class EventPump<Event: Sendable>: Sendable {
    private struct State {
        var waiting: [Event] = []
        var isBusy = false
        /// Events submitted and handled so far.
        var submitted: UInt64 = 0
        var handled: UInt64 = 0
    }

    private let state = Monitor(State())
    private let handle: @Sendable (Event) -> Void

    /// - Parameter handle: handles one event; never called by two threads at once.
    package init(_ handle: @escaping @Sendable (Event) -> Void) { self.handle = handle }

    package func submit(_ event: Event) { _ = take(event) }

    /// As `submit`, and returns when the event was handled, by whomever. Not from an action.
    package func submitAndWait(_ event: Event) {
        let ticket = take(event)
        state.wait { $0.handled >= ticket ? () : nil }
    }

    private func take(_ event: Event) -> UInt64 {
        let (isMine, ticket) = state.update { state in
            state.waiting.append(event)
            state.submitted += 1
            defer { state.isBusy = true }
            return (!state.isBusy, state.submitted)
        }
        guard isMine else { return ticket }
        while let next = nextEvent() {
            handle(next)
            state.update { $0.handled += 1 }
        }
        return ticket
    }

    private func nextEvent() -> Event? {
        state.update { state in
            guard !state.waiting.isEmpty else {
                state.isBusy = false
                return nil
            }
            return state.waiting.removeFirst()
        }
    }
}
