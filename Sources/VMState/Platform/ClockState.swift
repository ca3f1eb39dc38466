/// The VM's clock, kvmclock: it goes on at the destination, and takes the TSCs with it.

import CKVM
import Glibc
import KVM
import StateSchema
import SwiftProtobuf

/// The clock of a VM at one instant of its host. A section of its own ("clock").
public struct ClockState: SavedState {
    public static let version: UInt32 = 1
    static let maximumByteCount = 4096

    let wire: WireClock

    init(checking wire: WireClock) throws(StateError) {
        let checker = WireChecker(part: "clock state")
        // 146 years: beyond, sums overflow.
        try checker.require(wire.guestNanoseconds < 1 << 62, "guest time", "\(wire.guestNanoseconds) ns")
        try checker.require(
            wire.hostRealtimeNanoseconds < 1 << 62, "host time", "\(wire.hostRealtimeNanoseconds) ns")
        self.wire = wire
    }

    public init(decoding bytes: [UInt8], version: UInt32) throws(StateError) {
        try self.init(
            checking: SectionCoder.decode(
                WireClock.self, bytes, version: version, newest: Self.version, limit: Self.maximumByteCount,
                "clock state"))
    }

    public func encoded() throws(StateError) -> [UInt8] { try SectionCoder.encode(wire, "clock state") }
}

/// How a restored clock relates to the time that passed since it was saved.
public enum ClockAdvance: Hashable, Sendable {
    /// The guest's clock and TSC have gone on meanwhile: a live migration. `peerOffset` is this host's CLOCK_REALTIME
    /// minus the source's in nanoseconds, as measured over the link (0 on one host).
    case elapsed(peerOffset: Int64)
    /// The guest's clock and TSC go on from where they stood: a snapshot that is restored some day.
    case none
}

/// What the restored clock of a VM means for the TSCs of its vCPUs.
public struct ClockContinuation: Hashable, Sendable {
    /// The guest's clock in nanoseconds and the host's TSC at one instant of the source.
    public var sourceClock: UInt64
    public var sourceTSC: UInt64
    /// The same at one instant of this host, after the clock was restored.
    public var clock: UInt64
    public var tsc: UInt64

    public init(sourceClock: UInt64, sourceTSC: UInt64, clock: UInt64, tsc: UInt64) {
        self.sourceClock = sourceClock
        self.sourceTSC = sourceTSC
        self.clock = clock
        self.tsc = tsc
    }

    /// What is added to the TSC offset that a vCPU had at the source: the difference of the hosts' TSCs, and as much
    /// as the guest's clock has gone on (kernel document on KVM_VCPU_TSC_OFFSET). One value for all vCPUs, so that
    /// their TSCs stay as far apart as they were.
    public func tscShift(kiloHertz: UInt32) -> Int64 {
        let nanoseconds = Int64(truncatingIfNeeded: clock &- sourceClock)
        let product = nanoseconds.magnitude.multipliedFullWidth(by: UInt64(kiloHertz))
        // A clock difference below 2^62 and a frequency below 2^32 leave a quotient below 2^74: cut it, do not trap.
        let ticks = product.high < 1_000_000 ? UInt64(1_000_000).dividingFullWidth(product).quotient : UInt64.max
        let signed = Int64(truncatingIfNeeded: ticks)
        return Int64(truncatingIfNeeded: sourceTSC &- tsc) &+ (nanoseconds < 0 ? 0 &- signed : signed)
    }
}

extension ClockState {
    /// Reads the clock of a VM that does not run. Last of all that is captured: what comes later counts as elapsed.
    public static func capture(from vm: VirtualMachine) throws(StateError) -> ClockState {
        var wire = WireClock()
        let reading = try ClockReading(of: vm)
        wire.guestNanoseconds = reading.clock
        wire.hostRealtimeNanoseconds = reading.realtime
        wire.hostTsc = reading.tsc
        wire.readAsOne = reading.isOne
        wire.tscStable = reading.isStable
        return try ClockState(checking: wire)
    }

    /// Sets the clock of a VM that has not run. First of all that is restored: the vCPUs' TSCs are computed from it,
    /// and KVM fills the guest's wall clock page from it when the page's MSR is restored.
    public func restore(
        into vm: VirtualMachine, advance: ClockAdvance
    ) throws(StateError) -> (continuation: ClockContinuation, warnings: [StateWarning]) {
        var warnings: [StateWarning] = []
        var data = kvm_clock_data()
        data.clock = wire.guestNanoseconds
        if case .elapsed(let peerOffset) = advance {
            let now = realtimeNanoseconds()
            let then = Int64(wire.hostRealtimeNanoseconds).addingReportingOverflow(peerOffset)
            let passed = Int64(now).subtractingReportingOverflow(then.partialValue)
            let elapsed = then.overflow || passed.overflow ? Int64.min : passed.partialValue
            if elapsed < 0 {
                // The guest's time never goes back.
                warnings.append(
                    StateWarning(
                        .clock, "clock",
                        "the hosts' clocks disagree: the state seems to come from the future. The "
                            + "guest's clock goes on from where it stood"))
            } else if elapsed > Self.longestMove {
                warnings.append(
                    StateWarning(
                        .clock, "clock",
                        "the state seems to be \(elapsed / 1_000_000_000) s old, which no move takes. "
                            + "The guest's clock goes on from where it stood"))
            } else if wire.readAsOne, vm.advancesClock {
                // KVM adds what has passed at the very moment it sets the clock.
                data.flags = UInt32(KVM_CLOCK_REALTIME)
                data.realtime = UInt64(then.partialValue)
            } else {
                data.clock += UInt64(elapsed)
            }
        }
        try kvmCall("cannot restore the VM's clock") { () throws(KVMError) in try vm.setClock(data) }
        let here = try ClockReading(of: vm)
        let continuation = ClockContinuation(
            sourceClock: wire.guestNanoseconds, sourceTSC: wire.hostTsc, clock: here.clock, tsc: here.tsc)
        return (continuation, warnings)
    }

    /// An hour in nanoseconds. A guest that is set further ahead at once fires all its timers and watchdogs.
    private static let longestMove: Int64 = 3_600_000_000_000

    public var stateDescription: StateDescription {
        var rows = StateDescription()
        rows.add("guest", "\(wire.guestNanoseconds) ns")
        rows.add("host.realtime", "\(wire.hostRealtimeNanoseconds) ns")
        rows.add("host.tsc", "\(wire.hostTsc)")
        rows.add(flag: "readAsOne", wire.readAsOne)
        rows.add(flag: "tscStable", wire.tscStable)
        rows.add(unknown: wire.unknownFields.data.count)
        return rows
    }
}

/// The VM's clock with the host's clocks at the same instant.
private struct ClockReading {
    let clock: UInt64
    let realtime: UInt64
    let tsc: UInt64
    let isOne: Bool
    let isStable: Bool

    init(of vm: VirtualMachine) throws(StateError) {
        let before = (realtimeNanoseconds(), ckvm_read_tsc())
        let data = try kvmCall("cannot read the VM's clock") { () throws(KVMError) in try vm.clock() }
        let after = (realtimeNanoseconds(), ckvm_read_tsc())
        let needed = UInt32(KVM_CLOCK_REALTIME) | UInt32(KVM_CLOCK_HOST_TSC)
        isOne = data.flags & needed == needed
        isStable = data.flags & UInt32(KVM_CLOCK_TSC_STABLE) != 0
        clock = data.clock
        // Hosts whose clock is not the TSC do not give all three: take the middle of the call.
        // (The wall clock may have been set back in between.)
        realtime = isOne ? data.realtime : before.0 + (max(after.0, before.0) - before.0) / 2
        tsc = isOne ? data.host_tsc : before.1 &+ (after.1 &- before.1) / 2
    }
}

extension VirtualMachine {
    /// KVM_CLOCK_REALTIME is offered (Linux 5.16).
    fileprivate var advancesClock: Bool {
        guard let flags = try? check(.adjustClock) else { return false }
        return UInt32(truncatingIfNeeded: flags) & UInt32(KVM_CLOCK_REALTIME) != 0
    }
}

/// CLOCK_REALTIME.
private func realtimeNanoseconds() -> UInt64 {
    var time = timespec()
    unsafe clock_gettime(CLOCK_REALTIME, &time)
    return UInt64(max(time.tv_sec, 0)) &* 1_000_000_000 &+ UInt64(max(time.tv_nsec, 0))
}
