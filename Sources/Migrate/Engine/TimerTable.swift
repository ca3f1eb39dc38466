/// The timers of a hand-over, and the thread that lets them fire.

/// One timer of each kind; starting one again moves it.
package final class TimerTable: Sendable {
    private struct State {
        var deadlines: [HandOverTimer: MonotonicInstant] = [:]
        var hasEnded = false
    }

    private let monitor = Monitor(State())
    private let thread: PlainThread

    /// - Parameter fire: called on the timers' own thread.
    package init(_ fire: @escaping @Sendable (HandOverTimer) -> Void) throws {
        let monitor = monitor
        thread = try PlainThread(name: "timers") {
            while let timer = Self.next(monitor) { fire(timer) }
        }
    }

    package func start(_ timer: HandOverTimer, _ duration: Duration) {
        monitor.update { $0.deadlines[timer] = .now + duration }
    }

    package func cancel(_ timer: HandOverTimer) {
        monitor.update { $0.deadlines[timer] = nil }
    }

    /// Ends the thread. Not from a timer's own call.
    package func end() {
        monitor.update { $0.hasEnded = true }
        thread.join()
    }

    private enum Step {
        case fire(HandOverTimer)
        case lookAgain
        case end
    }

    /// Waits for the next timer that is due; nil at the end.
    private static func next(_ monitor: Monitor<State>) -> HandOverTimer? {
        while true {
            let earliest = monitor.read { $0.deadlines.values.min() }
            let step: Step? = monitor.wait(until: earliest) { state in
                if state.hasEnded { return .end }
                let now = MonotonicInstant.now
                if let (timer, _) = state.deadlines.first(where: { $0.value <= now }) {
                    state.deadlines[timer] = nil
                    return .fire(timer)
                }
                return state.deadlines.values.min() == earliest ? nil : .lookAgain
            }
            switch step {
            case .fire(let timer): return timer
            case .end: return nil
            case .lookAgain, nil: continue
            }
        }
    }
}
