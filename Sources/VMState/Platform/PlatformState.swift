/// What a VM has once, besides its devices: interrupt controllers, interval timer, clock.

import KVM

/// The three together, with the order in which they belong.
public struct PlatformState: Equatable, Sendable {
    public var irqchip: IRQChipState
    public var pit: PITState
    public var clock: ClockState

    public init(irqchip: IRQChipState, pit: PITState, clock: ClockState) {
        self.irqchip = irqchip
        self.pit = pit
        self.clock = clock
    }

    /// Of a VM whose vCPUs stand and whose devices are drained. After the vCPUs' and the devices' state: the clock is
    /// read last, so that no time is lost between.
    public static func capture(from vm: VirtualMachine) throws(StateError) -> PlatformState {
        PlatformState(
            irqchip: try .capture(from: vm), pit: try .capture(from: vm), clock: try .capture(from: vm))
    }

    /// The first half of restoring a VM, before its vCPUs (`VCPUState.restore`, which takes the continuation).
    public func restoreClock(
        into vm: VirtualMachine, advance: ClockAdvance
    ) throws(StateError) -> (continuation: ClockContinuation, warnings: [StateWarning]) {
        try clock.restore(into: vm, advance: advance)
    }

    /// The second half, after the vCPUs: interrupt controllers, then the timer that pulls at their lines.
    public func restoreControllers(into vm: VirtualMachine) throws(StateError) {
        try irqchip.restore(into: vm)
        try pit.restore(into: vm)
    }
}
