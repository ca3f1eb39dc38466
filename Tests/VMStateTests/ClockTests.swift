/// The VM's clock, and what it means for the TSCs.

import CKVM
import Glibc
import KVM
import Testing
import VMState

struct ClockContinuationTests {
    /// The formula of the kernel's document on KVM_VCPU_TSC_OFFSET, with numbers one can follow: 2 GHz; the guest's
    /// clock went on by 3 ms, which is 6,000,000 ticks; the destination's TSC is 1,000,000 ahead.
    @Test func shift() {
        let clock = ClockContinuation(
            sourceClock: 1_000_000_000, sourceTSC: 50_000_000, clock: 1_003_000_000, tsc: 51_000_000)
        #expect(clock.tscShift(kiloHertz: 2_000_000) == 5_000_000)
    }

    @Test func sameInstantIsNoShift() {
        let clock = ClockContinuation(sourceClock: 7, sourceTSC: 9, clock: 7, tsc: 9)
        #expect(clock.tscShift(kiloHertz: 3_000_000) == 0)
    }

    /// A destination that was booted long after the source: its TSC is behind, and the clock goes backwards in none.
    @Test func youngerHost() {
        let clock = ClockContinuation(sourceClock: 100, sourceTSC: 1 << 60, clock: 100, tsc: 1 << 20)
        #expect(clock.tscShift(kiloHertz: 2_400_000) == 1 << 60 - 1 << 20)
    }

    /// Whatever the numbers, no trap.
    @Test func anyNumbers() {
        var random = Bytes(seed: 5)
        for _ in 0..<10_000 {
            let clock = ClockContinuation(
                sourceClock: random.next(), sourceTSC: random.next(), clock: random.next(), tsc: random.next())
            _ = clock.tscShift(kiloHertz: UInt32(truncatingIfNeeded: random.next()))
        }
        let worst = ClockContinuation(sourceClock: 0, sourceTSC: 0, clock: 1 << 63, tsc: .max)
        _ = worst.tscShift(kiloHertz: .max)
    }
}

@Suite(.enabled(if: isKVMUsable, "no usable /dev/kvm on this host"), .serialized)
struct ClockTests {
    private func guestTime(_ vm: TestVM) throws -> UInt64 { try vm.vm.clock().clock }

    /// The guest's clock has gone on by the time that the move took.
    @Test func elapsedTimeCounts() throws {
        let source = try TestVM()
        let state = try ClockState.capture(from: source.vm)
        usleep(200_000)
        let destination = try TestVM()
        let (_, warnings) = try state.restore(into: destination.vm, advance: .elapsed(peerOffset: 0))
        #expect(warnings == [])
        // Source and destination tell the same time, to within what reading two clocks one after the other takes.
        let a = try guestTime(source)
        let b = try guestTime(destination)
        let difference = Int64(b) - Int64(a)
        #expect(abs(difference) < 20_000_000, "\(difference) ns")
    }

    /// A peer whose wall clock is five seconds behind this host's: told so, the destination counts the same.
    @Test func peerOffsetCounts() throws {
        let source = try TestVM()
        let state = try ClockState.capture(from: source.vm)
        let destination = try TestVM()
        let before = try guestTime(source)
        // The source's stamp in this host's time is three seconds ago.
        _ = try state.restore(into: destination.vm, advance: .elapsed(peerOffset: -3_000_000_000))
        let passed = Int64(try guestTime(destination)) - Int64(before)
        #expect(passed > 2_900_000_000 && passed < 3_500_000_000, "\(passed) ns")
    }

    @Test func snapshotGoesOnWhereItStood() throws {
        let source = try TestVM()
        let state = try ClockState.capture(from: source.vm)
        let then = try guestTime(source)
        usleep(300_000)
        let destination = try TestVM()
        _ = try state.restore(into: destination.vm, advance: .none)
        let passed = Int64(try guestTime(destination)) - Int64(then)
        #expect(passed < 250_000_000, "\(passed) ns")
    }

    /// Clocks that disagree never move the guest back, nor ahead by hours.
    @Test(arguments: [60_000_000_000, -86_400_000_000_000, Int64.max, Int64.min])
    func absurdTimesAreReported(offset: Int64) throws {
        let source = try TestVM()
        let state = try ClockState.capture(from: source.vm)
        let then = try guestTime(source)
        let destination = try TestVM()
        let (_, warnings) = try state.restore(into: destination.vm, advance: .elapsed(peerOffset: offset))
        #expect(warnings.map(\.code) == [.clock])
        let passed = Int64(try guestTime(destination)) - Int64(then)
        #expect(passed > -1_000_000_000 && passed < 5_000_000_000, "\(passed) ns")
    }

    /// The guest's TSC, as the vCPU reads it, does not go back over a move, and not ahead by more than the move took.
    @Test func tscGoesOn() throws {
        let source = try TestVM()
        let before = try source.capture()
        let destination = try TestVM()
        let warnings = try destination.restore(before)
        #expect(warnings.filter { $0.code == .tsc } == [])
        let after = try destination.capture()
        let a = try #require(before.vcpus[0].msr(MSRNames.tsc))
        let b = try #require(after.vcpus[0].msr(MSRNames.tsc))
        #expect(b > a)
        #expect(b - a < UInt64(source.host.tscKHz) * 5000)
    }

    /// A host that takes a TSC offset without effect is told apart from one that obeys: the guest's TSC is either
    /// where it should be, or there is a warning with the jump.
    @Test func ignoredTSCOffsetIsReported() throws {
        let source = try TestVM()
        let state = try source.capture()
        let destination = try TestVM()
        // As if the source's host had been booted much earlier: its TSC is 2^40 ahead of this host's.
        let clock = ClockContinuation(
            sourceClock: 0, sourceTSC: ckvm_read_tsc() + 1 << 40, clock: 0, tsc: ckvm_read_tsc())
        let warnings = try state.vcpus[0].restore(into: destination.vcpus[0], clock: clock).filter { $0.code == .tsc }
        let tsc = try #require(
            try VCPUState.capture(from: destination.vcpus[0], msrs: [MSRNames.tsc]).state.msr(MSRNames.tsc))
        let isObeyed = tsc > ckvm_read_tsc() + 1 << 39
        #expect(warnings.isEmpty == isObeyed)
        if !isObeyed { #expect(warnings.first?.message.contains("takes a TSC offset without effect") == true) }
    }
}
