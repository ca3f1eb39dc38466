/// What the migration engine needs of a VM. Any VMM can implement it; `Machine` does, and tests put a model VM here.

import DirtyLog
import Units

/// One contiguous range of guest RAM, mapped in this process.
@safe
public struct MemoryRegion: @unchecked Sendable {
    /// Where the guest sees the region.
    public let guestAddress: GuestAddress
    /// Bytes; a multiple of the page size.
    public let byteCount: Int
    /// The first byte in this process. Stays mapped as long as the machine lives.
    public let base: UnsafeMutableRawPointer

    public init(guestAddress: GuestAddress, byteCount: Int, base: UnsafeMutableRawPointer) {
        unsafe self.base = base
        self.guestAddress = guestAddress
        self.byteCount = byteCount
    }

    public var pageCount: Int { byteCount / pageByteCount }
}

/// What never changes while a VM lives, sent before anything else so that a receiver can refuse early.
public struct MachineConfiguration: Equatable, Sendable {
    /// A range of guest RAM.
    public struct Memory: Equatable, Sendable {
        public var guestAddress: GuestAddress
        public var byteCount: UInt64

        public init(guestAddress: GuestAddress, byteCount: UInt64) {
            self.guestAddress = guestAddress
            self.byteCount = byteCount
        }
    }

    /// A device and the version of the state it saves.
    public struct Device: Equatable, Sendable {
        public var name: String
        public var version: UInt32
        /// What the guest was promised of the device (a disk's size, a MAC address), encoded by the machine; at most
        /// 2 KiB. The engine carries it and does not look inside.
        public var settings: [UInt8]

        public init(name: String, version: UInt32, settings: [UInt8] = []) {
            self.name = name
            self.version = version
            self.settings = settings
        }
    }

    /// The VM's name, as `migratectl ps` shows it.
    public var name: String
    /// 128 random bits that stay the same wherever the VM goes.
    public var identifier: [UInt8]
    /// Regions in the order of `MigratableMachine.memory`.
    public var memory: [Memory]
    public var vcpuCount: Int
    /// CPUID and MSR policy, encoded by `VMState`; the engine carries it and does not look inside.
    public var cpuPolicy: [UInt8]
    public var devices: [Device]

    public init(
        name: String, identifier: [UInt8], memory: [Memory], vcpuCount: Int, cpuPolicy: [UInt8], devices: [Device]
    ) {
        self.name = name
        self.identifier = identifier
        self.memory = memory
        self.vcpuCount = vcpuCount
        self.cpuPolicy = cpuPolicy
        self.devices = devices
    }
}

/// The saved state of one part of a stopped VM ("vcpu.0", "irqchip", "clock", "serial.0").
public struct StateSection: Equatable, Sendable {
    public var name: String
    /// The version of the part's schema, not of the stream.
    public var version: UInt32
    /// Protobuf (DESIGN section 3).
    public var bytes: [UInt8]

    public init(name: String, version: UInt32, bytes: [UInt8]) {
        self.name = name
        self.version = version
        self.bytes = bytes
    }
}

/// A VM that can be moved. All calls come from plain threads, may block, and never come two at a time except where
/// a member says so.
public protocol MigratableMachine: AnyObject, Sendable {
    var configuration: MachineConfiguration { get }
    /// Guest RAM, in the order of `configuration.memory`.
    var memory: [MemoryRegion] { get }

    /// The dirty log of this VM, not yet started. One at a time.
    func makeDirtyTracker() throws -> any DirtyTracker

    /// Sets bit `i` of `words` for each page `firstPage + i` that was ever populated (a swapped page is); clears the
    /// others. Pages not set read as zeros. `words` is whole 64-page words. Called from several lane threads at once.
    func readPopulation(region: Int, firstPage: PageIndex, words: UnsafeMutableBufferPointer<UInt64>) throws

    /// Stops the vCPUs and drains the devices. When it returns, no guest instruction runs and nothing writes guest
    /// memory any more. Returns the instant (CLOCK_MONOTONIC nanoseconds) at which the last vCPU left the guest.
    func pause() throws -> UInt64
    /// Lets the vCPUs run again; undoes `pause`, or starts a VM whose state was restored. Returns the instant
    /// (CLOCK_MONOTONIC nanoseconds) at which the first vCPU entered the guest.
    func resume() throws -> UInt64

    /// Of a paused VM. May write guest memory (the dirty tracker sees it).
    func captureState() throws -> [StateSection]
    /// Into a VM that has not run. May write guest memory. `clockOffset` is this host's CLOCK_REALTIME minus that of the
    /// host where the state was captured, in nanoseconds: the guest's clock goes on by the time that has passed.
    func restoreState(_ sections: [StateSection], clockOffset: Int64) throws

    /// Prepares a VM that has not run for pages that come after it does. Once a machine.
    /// - Throws: why it cannot be had, and what to do about it.
    func makePaging() throws -> any MemoryPaging

    /// Of a paused VM whose requests are finished: what it wrote to its disks is where another host can read it, and
    /// its locks on them are given up. Throws if that cannot be had, and may then hold some of the locks. Of a VM
    /// that holds no lock it does nothing.
    func releaseDisks() throws
    /// Takes the locks on the VM's disks, all or none of them. Of a VM that holds them already it does nothing.
    func lockDisks() throws
}

extension MigratableMachine {
    /// For VMs without disks.
    public func releaseDisks() throws {}
    public func lockDisks() throws {}

    /// Restores what was captured on this host.
    public func restoreState(_ sections: [StateSection]) throws { try restoreState(sections, clockOffset: 0) }
}

/// Makes the VM that a receiver will run, from the configuration that came over the wire.
public protocol MachineBuilder: Sendable {
    /// Builds a stopped VM with this configuration, or throws an error whose description lists each reason against
    /// it (CPU features by name, memory that does not fit, unknown devices).
    func makeMachine(for configuration: MachineConfiguration) throws -> any MigratableMachine
}
