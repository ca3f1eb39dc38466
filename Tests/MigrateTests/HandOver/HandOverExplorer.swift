/// Walks through every state that the two machines, the wire, kills and a person can bring about.
///
/// Breadth first, each state once, so that a counterexample is a shortest one. Safety is looked at in each state and
/// at each step; liveness is looked at in the finished graph: from every state without a kill there must be a way of
/// steps that happen by themselves to a settled state in which exactly one side runs the VM.

import Migrate

struct Exploration {
    var states: [World] = []
    var transitions = 0
    var depth = 0
    /// `nil` when nothing was broken; otherwise what, and the shortest way to it.
    var counterexample: (violation: String, trace: [Step])?
}

struct HandOverExplorer {
    let scope: Scope
    /// Stops the walk when there is something wrong with the model itself.
    var limit = 4_000_000

    private struct Origin {
        var parent: Int32
        var depth: UInt16
        var step: Step?
    }

    func explore(checkLiveness: Bool = true) -> Exploration {
        var result = Exploration()
        var numbers: [World: Int32] = [:]
        var origins: [Origin] = []
        // Steps that lead on by themselves, backwards: (to, from).
        var progress: [(Int32, Int32)] = []
        var withHelp: [(Int32, Int32)] = []

        let first = World(scope)
        var start = first
        let broken = start.source(.linkUp) ?? start.destination(.linkUp)
        start.wire = Wire(destinationEnd: true)
        start.sourceWantsLink = false
        precondition(broken == nil)
        numbers[start] = 0
        result.states.append(start)
        origins.append(Origin(parent: -1, depth: 0, step: nil))

        func trace(to state: Int, _ last: Step?) -> [Step] {
            var steps = last.map { [$0] } ?? []
            var at = state
            while let step = origins[at].step {
                steps.append(step)
                at = Int(origins[at].parent)
            }
            return steps.reversed()
        }

        var at = 0
        while at < result.states.count {
            let world = result.states[at]
            if let violation = world.violation(scope) ?? world.oldMessageTakesEffect() {
                result.counterexample = (violation, trace(to: at, nil))
                return result
            }
            for step in world.steps(scope) {
                var next = world
                result.transitions += 1
                if let violation = next.take(step) {
                    result.counterexample = (violation, trace(to: at, step))
                    return result
                }
                let number: Int32
                if let known = numbers[next] {
                    number = known
                } else {
                    number = Int32(result.states.count)
                    numbers[next] = number
                    result.states.append(next)
                    let depth = origins[at].depth + 1
                    origins.append(Origin(parent: Int32(at), depth: depth, step: step))
                    result.depth = max(result.depth, Int(depth))
                }
                if step.isProgress { progress.append((number, Int32(at))) }
                if step.isProgressWithHelp { withHelp.append((number, Int32(at))) }
            }
            if result.states.count > limit {
                result.counterexample = ("more than \(limit) states", [])
                return result
            }
            at += 1
        }
        numbers = [:]
        guard checkLiveness else { return result }
        if let (stuck, why) = stuckState(result.states, progress, withHelp) {
            result.counterexample = (why, trace(to: stuck, nil))
        }
        return result
    }

    /// The first state from which no way leads where it must.
    private func stuckState(
        _ states: [World], _ progress: [(Int32, Int32)], _ withHelp: [(Int32, Int32)]
    ) -> (Int, String)? {
        if scope.lies {
            let single = reaching(states, progress) { $0.runningCount < 2 || !$0.canTalk }
            return states.indices.first { !single[$0] }.map { ($0, "two sides that can talk both run on") }
        }
        let settled = reaching(states, progress) { $0.isSettled && $0.runningCount == 1 }
        let runs = reaching(states, withHelp) { $0.runningCount == 1 }
        for (index, world) in states.enumerated() {
            let nobodyInterfered =
                !world.sourceKilled && !world.destinationKilled && !world.sourceDecided && !world.destinationDecided
                && !world.sourceDropped && !world.destinationDropped && !world.startFailed
            if nobodyInterfered, !settled[index] { return (index, "both sides live and do not come to an end") }
            if scope.resolves, world.mustBeSavable, !runs[index] { return (index, "the VM is lost") }
        }
        return nil
    }

    /// For each state, whether steps of the given kind lead from it to a goal.
    private func reaching(
        _ states: [World], _ edges: [(Int32, Int32)], _ isGoal: (World) -> Bool
    ) -> [Bool] {
        var firstEdge = [Int32](repeating: 0, count: states.count + 1)
        for (to, _) in edges { firstEdge[Int(to) + 1] += 1 }
        for index in 1..<firstEdge.count { firstEdge[index] += firstEdge[index - 1] }
        var fill = firstEdge
        var from = [Int32](repeating: 0, count: edges.count)
        for (to, source) in edges {
            from[Int(fill[Int(to)])] = source
            fill[Int(to)] += 1
        }
        var reached = states.map(isGoal)
        var stack = states.indices.filter { reached[$0] }
        while let state = stack.popLast() {
            for edge in firstEdge[state]..<firstEdge[state + 1] {
                let source = Int(from[Int(edge)])
                if !reached[source] {
                    reached[source] = true
                    stack.append(source)
                }
            }
        }
        return reached
    }
}

extension World {
    /// The two sides are linked or will be: the source has not ended the session.
    var canTalk: Bool { source != nil && destination != nil && (sourceIsAttached || sourceWantsLink) }

    /// A start that fails (by KVM's refusal, not by a race) needs a person; it is not the protocol's to heal.
    var startFailed: Bool {
        if case .stopped(.startFailed) = destination?.real.phase { true } else { false }
    }

    /// A living side holds the VM as it is now, and did nothing that gives it the right to let go.
    var mustBeSavable: Bool {
        if sourceDropped || destinationDropped { return false }
        if destinationKilled, !sourceKilled, let source = source?.real { return source.phase != .freed }
        if sourceKilled, !destinationKilled, let destination = destination?.real {
            switch destination.phase {
            // Pages that had not followed the VM died with the source.
            case .ready, .deciding, .locking, .starting, .running: return hasAllPages
            default: return false
            }
        }
        return false
    }

    /// Every message of an older attempt or another session must leave both machines as they are. Tried in each
    /// state, so that replays and late arrivals need no steps of their own.
    func oldMessageTakesEffect() -> String? {
        let bodies: [HandOverMessage.Body] = [
            .final(.preCopy), .ready, .refused(.cancelled), .void(.retry), .void(.final), .void(.resolved), .voided,
            .commit, .running, .installed, .done, .lost(hasRun: true),
        ]
        for body in bodies {
            if let source, source.real.attempt.rawValue > 0, source.fault == nil || source.fault == .believesOldAttempts
            {
                for message in Self.foreign(body, source.real.attempt) {
                    var machine = source
                    _ = machine.handle(.message(message))
                    if machine.real != source.real { return "an old \(body) takes effect at the source" }
                }
            }
            if let destination, destination.real.attempt.rawValue > 0,
                destination.fault == nil || destination.fault == .obeysOldAttempts
            {
                for message in Self.foreign(body, destination.real.attempt) {
                    var machine = destination
                    _ = machine.handle(.message(message))
                    if machine.real != destination.real { return "an old \(body) takes effect at the destination" }
                }
            }
        }
        return nil
    }

    private static func foreign(_ body: HandOverMessage.Body, _ attempt: AttemptNumber) -> [HandOverMessage] {
        let older = AttemptNumber(attempt.rawValue - 1)
        return [
            HandOverMessage(session: session, attempt: older, digest: digest(older), body: body),
            HandOverMessage(
                session: SessionIdentifier(high: 8, low: 9), attempt: attempt, digest: digest(attempt), body: body),
        ]
    }
}
