/// The machine as the migration engine sees it.

import CKVM
import DirtyLog
import KVM
import Logging
import Migrate
import Synchronization
import Units
import VMState

extension PagedMemory: MemoryPaging {}

extension Machine: MigratableMachine {
    public var memory: [MemoryRegion] { ram.migratableRegions }

    public func makeDirtyTracker() throws -> any DirtyTracker {
        // Nobody tracks a dead guest: whoever asks is about to move it, and is told now and not at the pause.
        if let outcome = group.outcome { throw MachineError(.guestEnded, "cannot track its memory: \(outcome)") }
        let regions = ram.trackedRegions
        let tracker: any DirtyTracker =
            switch host.dirtyTracker {
            case .bitmap: try BitmapTracker(vm: vm, regions: regions)
            case .ring: try RingTracker(vm: vm, vcpus: group.vcpus, regions: regions)
            }
        ram.setTracker(tracker)
        return tracker
    }

    public func readPopulation(
        region: Int, firstPage: PageIndex, words: UnsafeMutableBufferPointer<UInt64>
    ) throws {
        try unsafe ram.readPopulation(region: region, firstPage: firstPage, words: words)
    }

    public func makePaging() throws -> any MemoryPaging { try ram.makePaged() }

    // MARK: Stopping and starting

    public func pause() throws -> UInt64 {
        try control.withLock { _ in
            let before = moment.withLock { $0 }
            guard before == .running else {
                throw MachineError(.wrongMoment, "cannot pause: the machine is \(before.rawValue) already")
            }
            let leftAt = group.pause()
            for device in devices { device.quiesce() }
            beginDiskFlush()
            moment.withLock { $0 = .paused }
            // A guest that ended before it was stopped must not be moved as if it lived.
            if let outcome = group.outcome { throw MachineError(.guestEnded, "cannot pause: \(outcome)") }
            return leftAt
        }
    }

    public func resume() throws -> UInt64 {
        try control.withLock { _ in
            if let outcome = group.outcome { throw MachineError(.guestEnded, "cannot resume: \(outcome)") }
            let before = moment.withLock { $0 }
            guard before == .paused else {
                throw MachineError(.wrongMoment, "cannot resume: the machine is \(before.rawValue) already")
            }
            // The clock first. A restored VM's clock was set when its state was, and has gone on since; what is left
            // is to tell each guest clock that it stood still, so that the guest's watchdogs forgive the gap.
            for vcpu in group.vcpus { try vcpu.notifyClockPaused() }
            forgetDiskFlush()
            for device in devices { device.unquiesce() }
            let isArriving = isArriving.withLock { isArriving in
                defer { isArriving = false }
                return isArriving
            }
            if isArriving { for device in devices { device.announceArrival() } }
            moment.withLock { $0 = .running }
            return group.resume()
        }
    }

    // MARK: State

    public func captureState() throws -> [StateSection] {
        try requirePaused("capture the state")
        var sections: [StateSection] = []
        var found: [StateWarning] = []
        for vcpu in group.vcpus {
            let (state, warnings) = try VCPUState.capture(from: vcpu, msrs: saveableMSRs)
            found += warnings
            sections.append(
                StateSection(name: Self.vcpuSection(vcpu.index), version: VCPUState.version, bytes: try state.encoded())
            )
        }
        for device in devices { sections.append(try device.save()) }
        // The clock is read last of all: what comes after it counts as time that passes.
        let platform = try PlatformState.capture(from: vm)
        sections.append(Self.section("irqchip", platform.irqchip, try platform.irqchip.encoded()))
        sections.append(Self.section("pit", platform.pit, try platform.pit.encoded()))
        sections.append(Self.section("clock", platform.clock, try platform.clock.encoded()))
        note(found)
        return sections
    }

    public func restoreState(_ sections: [StateSection], clockOffset: Int64) throws {
        try requirePaused("restore a state")
        let state = try SectionSet(sections, of: self)
        // The order is VMState's: the clock, from which the vCPUs' TSCs follow; the vCPUs; the interrupt controllers,
        // which would otherwise lose to the LAPICs what they hand them; the timer that pulls at their lines; last the
        // devices, which find their lines as they left them.
        var found: [StateWarning] = []
        let (continuation, clockWarnings) = try state.platform.restoreClock(
            into: vm, advance: .elapsed(peerOffset: clockOffset))
        found += clockWarnings
        for (vcpu, saved) in zip(group.vcpus, state.vcpus) {
            found += try saved.restore(into: vcpu, clock: continuation)
        }
        try state.platform.restoreControllers(into: vm)
        for device in devices {
            device.quiesce()
            if let section = state.devices[device.name] { try device.load(section) }
        }
        isArriving.withLock { $0 = true }
        note(found)
    }

    static func vcpuSection(_ index: Int) -> String { "vcpu.\(index)" }

    private static func section<State: SavedState>(_ name: String, _: State, _ bytes: [UInt8]) -> StateSection {
        StateSection(name: name, version: State.version, bytes: bytes)
    }

    private func note(_ found: [StateWarning]) {
        for warning in found { logger.info("\(warning)") }
        warnings.withLock { known in
            for warning in found where !known.contains(warning) { known.append(warning) }
        }
    }
}

/// The sections of one machine, each decoded and checked before any of them is put into KVM.
struct SectionSet {
    let vcpus: [VCPUState]
    let platform: PlatformState
    let devices: [String: StateSection]

    init(_ sections: [StateSection], of machine: Machine) throws {
        var byName: [String: StateSection] = [:]
        for section in sections {
            guard byName.updateValue(section, forKey: section.name) == nil else {
                throw MachineError(.badState, "the state has the section \(section.name) twice")
            }
        }
        func take(_ name: String) throws(MachineError) -> StateSection {
            guard let section = byName.removeValue(forKey: name) else {
                throw MachineError(.badState, "the state lacks the section \(name)")
            }
            return section
        }
        func decode<State: SavedState>(_: State.Type, _ name: String) throws -> State {
            let section = try take(name)
            return try State(decoding: section.bytes, version: section.version)
        }
        vcpus = try (0..<machine.configuration.vcpuCount).map { try decode(VCPUState.self, Machine.vcpuSection($0)) }
        platform = PlatformState(
            irqchip: try decode(IRQChipState.self, "irqchip"), pit: try decode(PITState.self, "pit"),
            clock: try decode(ClockState.self, "clock"))
        var devices: [String: StateSection] = [:]
        for device in machine.devices { devices[device.name] = try take(device.name) }
        self.devices = devices
        if let unknown = byName.keys.sorted().first {
            throw MachineError(.badState, "the state has a section \(unknown), for which this machine has no part")
        }
    }
}
