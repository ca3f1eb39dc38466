/// What the machine does when a vCPU leaves the guest.

import DirtyLog
import KVM

extension Machine {
    /// Runs on the vCPUs' threads, on several at once. Holds no machine: the threads end before it goes away.
    static func exitHandler(buses: Buses, guestEnd: GuestEnd, ram: GuestRAM) -> ExitHandler {
        { exit, vcpu in
            switch exit {
            case .portIO(let access):
                buses.ports.perform(access)
                return guestEnd.outcome.map { .end($0) } ?? .carryOn
            case .memoryIO(let access):
                buses.memory.perform(access)
                return .carryOn
            case .interrupted, .interruptWindowOpen:
                return .carryOn
            case .dirtyRingFull:
                return relieveRing(of: vcpu, ram)
            case .halted:
                // Only without an in-kernel LAPIC, which every machine has.
                return .end(.failed("vcpu \(vcpu.index) halted outside of KVM"))
            case .shutdown:
                return .end(.shutdown(vcpu: vcpu.index))
            case .systemEvent(let type):
                return .end(.failed("the guest caused system event \(type)"))
            case .failedEntry(let reason):
                return .end(.failed("the CPU refused to enter the guest, reason 0x" + String(reason, radix: 16)))
            case .internalError(let suberror, let data):
                let words = data.map { "0x" + String($0, radix: 16) }.joined(separator: " ")
                return .end(.failed("KVM reported internal error \(suberror) on vcpu \(vcpu.index): \(words)"))
            case .other(let reason):
                return .end(.failed("KVM left the guest for reason \(reason), which this machine does not know"))
            }
        }
    }

    /// A full ring keeps its vCPU from entering the guest until it was harvested and reset.
    private static func relieveRing(of vcpu: VCPU, _ ram: GuestRAM) -> VCPUDecision {
        (ram.currentTracker as? RingTracker)?.ringFull()
        return .carryOn
    }
}
