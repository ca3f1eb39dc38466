/// All vCPUs of a machine: their threads, and stopping and starting them together.

import CKVM
import KVM
import Synchronization

/// What a vCPU's thread does after an exit was handled.
enum VCPUDecision {
    case carryOn
    /// The guest has ended: all vCPUs stop for good.
    case end(MachineOutcome)
}

/// Handles an exit, on the vCPU's thread.
typealias ExitHandler = @Sendable (VCPUExit, VCPU) -> VCPUDecision

/// The threads that run a machine's vCPUs. They start out paused.
///
/// How stopping loses nothing: a thread clears its vCPU's `immediate_exit` only when it leaves its parking place, and
/// looks at `wanted` after that. Whoever pauses sets `wanted` first, then `immediate_exit`, then sends the signal: so
/// either the thread sees `wanted`, or it enters KVM_RUN with `immediate_exit` set, or the signal finds it inside.
final class VCPUGroup: Sendable {
    enum Wanted: UInt8, AtomicRepresentable {
        case running, paused, finished
    }

    private struct Progress {
        /// Threads that stand still.
        var parked = 0
        /// When the last vCPU left the guest.
        var leftAt: UInt64 = 0
        /// When the first vCPU entered it, 0 before.
        var enteredAt: UInt64 = 0
        /// Counts the calls of `resume`, so that a parked thread knows a new one.
        var generation: UInt64 = 0
        var outcome: MachineOutcome?
    }

    let vcpus: [VCPU]
    private let wanted = Atomic(Wanted.paused)
    private let progress = Monitor(Progress())
    private let threads = Mutex<[Thread]>([])

    init(vcpus: [VCPU]) { self.vcpus = vcpus }

    /// Starts the threads, which park at once.
    func start(handler: @escaping ExitHandler) throws(MachineError) {
        for vcpu in vcpus {
            do {
                let thread = try Thread(name: "vcpu\(vcpu.index)") { [self] in run(vcpu, handler) }
                threads.withLock { $0.append(thread) }
            } catch {
                finish()
                throw error
            }
        }
        let count = vcpus.count
        _ = progress.wait { $0.parked == count ? true : nil }
    }

    /// Stops all vCPUs. Returns the instant at which the last of them left the guest.
    func pause() -> UInt64 {
        requestStop(.paused)
        let count = vcpus.count
        return progress.wait { $0.parked == count ? $0.leftAt : nil }
    }

    /// Lets all vCPUs run. Returns the instant at which the first of them entered the guest.
    func resume() -> UInt64 {
        progress.change { progress in
            progress.enteredAt = 0
            progress.generation += 1
            // All count as running from here, so that a pause right after this waits for each of them.
            progress.parked = 0
            wanted.store(.running, ordering: .sequentiallyConsistent)
        }
        return progress.wait { progress in
            if progress.enteredAt != 0 { return progress.enteredAt }
            // Ended by somebody else before any thread got as far as the guest.
            return progress.outcome == nil ? nil : ckvm_monotonic_nanoseconds()
        }
    }

    /// Ends the threads and waits for them. Not from one of them.
    func finish() {
        requestStop(.finished)
        let ended = threads.withLock { threads in
            defer { threads = [] }
            return threads
        }
        for thread in ended { thread.join() }
    }

    /// How the guest ended, nil while it lives.
    var outcome: MachineOutcome? { progress.withLock { $0.outcome } }

    /// Ends the guest from outside; the first outcome stays.
    func end(_ outcome: MachineOutcome) {
        progress.change { if $0.outcome == nil { $0.outcome = outcome } }
        requestStop(.paused)
    }

    /// Sleeps until the guest has ended, or until a CLOCK_MONOTONIC instant.
    func waitForOutcome(untilNanoseconds deadline: UInt64? = nil) -> MachineOutcome? {
        guard let deadline else { return progress.wait { $0.outcome } }
        return progress.wait(untilNanoseconds: deadline) { $0.outcome }
    }

    private func requestStop(_ kind: Wanted) {
        // Never back from finished.
        progress.change { _ in
            if wanted.load(ordering: .sequentiallyConsistent) != .finished {
                wanted.store(kind, ordering: .sequentiallyConsistent)
            }
        }
        for vcpu in vcpus { vcpu.requestImmediateExit(true) }
        threads.withLock { threads in
            for thread in threads where !thread.isCurrent { thread.kick() }
        }
    }

    // MARK: On the vCPU's thread

    private func run(_ vcpu: VCPU, _ handler: ExitHandler) {
        var generation: UInt64 = 0
        var leftAt: UInt64 = 0
        while true {
            generation = park(after: generation, leftAt: leftAt)
            if wanted.load(ordering: .sequentiallyConsistent) == .finished { return }
            vcpu.requestImmediateExit(false)
            var isFirst = true
            while true {
                guard wanted.load(ordering: .sequentiallyConsistent) == .running else { break }
                if isFirst {
                    noteEntry()
                    isFirst = false
                }
                let exit: VCPUExit
                do {
                    exit = try vcpu.run()
                } catch {
                    leftAt = ckvm_monotonic_nanoseconds()
                    end(.failed(error.description))
                    break
                }
                leftAt = ckvm_monotonic_nanoseconds()
                if case .interrupted = exit { continue }
                if case .end(let outcome) = handler(exit, vcpu) {
                    end(outcome)
                    break
                }
            }
            complete(vcpu, handler)
        }
    }

    /// Waits for a `resume` newer than `generation` (returns its number).
    private func park(after generation: UInt64, leftAt: UInt64) -> UInt64 {
        progress.change { progress in
            progress.parked += 1
            progress.leftAt = max(progress.leftAt, leftAt)
        }
        return progress.wait { progress in
            if wanted.load(ordering: .sequentiallyConsistent) == .finished { return progress.generation }
            return progress.generation != generation ? progress.generation : nil
        }
    }

    private func noteEntry() {
        let now = ckvm_monotonic_nanoseconds()
        progress.change { if $0.enteredAt == 0 { $0.enteredAt = now } }
    }

    /// Finishes an access that the last exit left open. Bounded: an instruction with a repeat count exits once for each
    /// part, and one that cannot be finished must not hold the pause up for ever.
    private func complete(_ vcpu: VCPU, _ handler: ExitHandler) {
        for _ in 0..<4096 {
            guard let exit = try? vcpu.completePendingAccess() else { return }
            if case .interrupted = exit { return }
            if case .end(let outcome) = handler(exit, vcpu) {
                end(outcome)
                return
            }
        }
    }
}
