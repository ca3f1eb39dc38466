/// The time stamp counter: it goes on at the destination from where it stood, plus the time that the move took.

import CKVM
import KVM
import StateSchema

extension VCPUState {
    /// Sets the TSC through its offset, reads it back, and says so when the host took it without effect (hosts without
    /// hardware virtualisation do).
    func restoreTSC(into vcpu: VCPU, clock: ClockContinuation?) throws(StateError) -> [StateWarning] {
        let subject = "vcpu \(vcpu.index)"
        let khz = try kvmCall("cannot read the TSC frequency of \(subject)") { () throws(KVMError) in
            UInt32(clamping: try vcpu.tscFrequency())
        }
        guard CPUPolicy.isSameFrequency(khz, wire.tsc.khz) else {
            throw StateError(
                .incompatibleHost, "\(subject) has a TSC of \(wire.tsc.khz) kHz, and was given one of \(khz) kHz here")
        }
        guard let wanted = wantedTSCOffset(clock: clock) else {
            return [StateWarning(.tsc, subject, "the source told no TSC; the guest sees this host's")]
        }
        let hasAttribute = try kvmCall("cannot ask for the TSC offset of \(subject)") { () throws(KVMError) in
            try vcpu.hasTSCOffset()
        }
        guard hasAttribute else {
            // Linux before 5.16. KVM may take this for an attempt to synchronise vCPUs and ignore it.
            let value = ckvm_read_tsc() &+ UInt64(bitPattern: wanted)
            try kvmCall("cannot set the TSC of \(subject)") { () throws(KVMError) in
                _ = try vcpu.writeMSRs([kvm_msr_entry(index: MSRNames.tsc, reserved: 0, data: value)])
            }
            return [
                StateWarning(
                    .tsc, subject,
                    "this host's KVM has no TSC offset (Linux 5.16): the TSC may be off by up to a second")
            ]
        }
        var found = wanted
        try kvmCall("cannot set the TSC offset of \(subject)") { () throws(KVMError) in
            try vcpu.setTSCOffset(UInt64(bitPattern: wanted))
            found = Int64(bitPattern: try vcpu.tscOffset() ?? 0)
        }
        // Between two programs on one host the offset is a few microseconds of reading the clocks. Not worth a word.
        let error = found &- wanted
        let tolerance = Int64(khz) / 1000 * Self.toleratedMicroseconds
        guard error.magnitude > tolerance.magnitude else { return [] }
        let microseconds = error / max(Int64(khz) / 1000, 1)
        return [
            StateWarning(
                .tsc, subject,
                "this host takes a TSC offset without effect (\(wanted) was set, \(found) is in force): the guest's TSC "
                    + "jumps by \(microseconds) us")
        ]
    }

    private static let toleratedMicroseconds: Int64 = 100

    /// nil when the source's state says nothing of its TSC.
    private func wantedTSCOffset(clock: ClockContinuation?) -> Int64? {
        if wire.tsc.hasOffset { return wire.tsc.offset &+ (clock?.tscShift(kiloHertz: wire.tsc.khz) ?? 0) }
        // A source without the attribute: its TSC as read with the MSRs, as if that had been when the clock was read.
        guard let clock, let value = msr(MSRNames.tsc) else { return nil }
        let offset = Int64(bitPattern: value &- clock.sourceTSC)
        return offset &+ clock.tscShift(kiloHertz: wire.tsc.khz)
    }
}
