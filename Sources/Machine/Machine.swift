/// The machine: a VM that runs on KVM, with RAM, vCPUs and devices, and that can be stopped, taken apart and put together
/// again elsewhere.

import CKVM
import DirtyLog
import KVM
import Logging
import Migrate
import Synchronization
import Units
import VMState
import Virtio

/// A running or stopped virtual machine. All calls may come from any thread but a vCPU's or the console's.
public final class Machine: Sendable {
    public let configuration: MachineConfiguration
    /// The CPU that the guest was promised; `configuration.cpuPolicy` decoded.
    public let cpuPolicy: CPUPolicy
    public let host: HostOptions
    let logger: Logger
    let vm: VirtualMachine
    let ram: GuestRAM
    let group: VCPUGroup
    let devices: [any Device]
    let serial: SerialPort
    let generation: GenerationID?
    let virtioConsole: ConsoleDevice?
    /// Came from another host and has not run here yet.
    let isArriving = Mutex(false)
    /// Of the pause that goes on.
    let diskFlush = Mutex<DiskFlush?>(nil)
    let console: SerialConsole
    /// The MSRs that KVM here can save.
    let saveableMSRs: [UInt32]
    let moment = Mutex(Moment.paused)
    /// Held by whoever changes the moment, so that one change ends before the next begins. Never taken by a vCPU's or
    /// the console's thread.
    let control = Mutex<Void>(())
    let warnings = Mutex<[StateWarning]>([])

    /// What the machine is doing, as those who control it see it. The guest's own end is the vCPU group's business.
    enum Moment: String {
        case paused, running, stopped
    }

    /// A new machine, stopped before its first instruction; `resume` starts it.
    public convenience init(_ options: MachineOptions, logger: Logger = Logger(label: "machine")) throws {
        if let problem = MachineName.problem(with: options.name) { throw MachineError(.invalidOptions, problem) }
        if let problem = GuestMemoryLayout.problem(with: options.memory) {
            throw MachineError(.invalidOptions, problem)
        }
        guard options.identifier.count == 16 else {
            throw MachineError(.invalidOptions, "a machine's identifier is 16 bytes, not \(options.identifier.count)")
        }
        let system = try KVMSystem(path: options.host.kvmPath)
        let most = min(try system.check(.maxVCPUs), Self.maximumVCPUCount)
        guard (1...most).contains(options.vcpuCount) else {
            throw MachineError(
                .invalidOptions, "a machine has 1 to \(most) vCPUs on this host, not \(options.vcpuCount)")
        }
        let regions = GuestMemoryLayout.regions(for: options.memory)
        let loader = try options.guest.makeLoader(
            vcpuCount: options.vcpuCount, lowMemory: regions.first?.byteCount ?? 0, acpiTables: ACPITables.start)
        let parts = try VirtioPart.parts(for: options.devices)
        let hostCPU = try HostCPU(of: system)
        let policy: CPUPolicy
        do {
            policy = CPUPolicy(host: try hostCPU.limited(to: options.cpu), vcpuCount: options.vcpuCount)
        } catch {
            throw MachineError(.invalidOptions, error.description)
        }
        let configuration = MachineConfiguration(
            name: options.name, identifier: options.identifier,
            memory: regions, vcpuCount: options.vcpuCount, cpuPolicy: policy.encoded(),
            devices: try DeviceSet.platform(isPC: options.guest.needsPC) + parts.map { try $0.configuration() })
        let chassis = try Chassis(layout: configuration.memory, system: system, host: options.host)
        try self.init(
            configuration: configuration, policy: policy, hostCPU: hostCPU, parts: parts, chassis: chassis,
            host: options.host, logger: logger)
        try lockDisks()
        try loader.load(into: ram)
        if options.guest.needsPC { try beginPC() }
        if let first = group.vcpus.first { try loader.setEntryState(of: first) }
    }

    /// APIC ids are 8 bits wide without x2APIC, and 255 means all of them.
    static let maximumVCPUCount = 254

    /// The parts of a machine whose configuration was checked, all of it stopped and its RAM zero. The chassis has that
    /// configuration's memory.
    init(
        configuration: MachineConfiguration, policy: CPUPolicy, hostCPU: HostCPU, parts: [VirtioPart],
        chassis: Chassis, host: HostOptions, logger: Logger
    ) throws {
        let (vm, ram) = (chassis.vm, chassis.ram)
        var vcpus: [VCPU] = []
        for index in 0..<configuration.vcpuCount {
            let vcpu = try vm.makeVCPU(index: index)
            try policy.apply(to: vcpu)
            vcpus.append(vcpu)
        }

        let buses = Buses()
        let guestEnd = GuestEnd()
        let console = try SerialConsole(limit: host.serialHistoryByteCount, sink: host.serialSink)
        let devices = try DeviceSet(
            configuration.devices, parts: parts, vm: vm, ram: ram, console: console, end: guestEnd, buses: buses,
            logger: logger)
        _ = ExitPort(on: buses.ports, end: guestEnd)
        let group = VCPUGroup(vcpus: vcpus)

        self.configuration = configuration
        self.cpuPolicy = policy
        self.host = host
        self.logger = logger
        self.vm = vm
        self.ram = ram
        self.group = group
        self.devices = devices.all
        self.serial = devices.serial
        self.generation = devices.generation
        self.virtioConsole = devices.console
        self.console = console
        self.saveableMSRs = hostCPU.msrs.sorted()
        guard ckvm_install_kick_handler() == 0 else {
            throw MachineError(.hostRefused, "cannot install the handler of the vCPU signal")
        }
        try group.start(handler: Self.exitHandler(buses: buses, guestEnd: guestEnd, ram: ram))
    }

    deinit { stop() }

    /// Ends the machine: its vCPUs stop for good and their threads end. RAM and KVM's objects go away with the machine
    /// itself. What the guest wrote to the serial line has been delivered when this returns (unless the sink calls it).
    public func stop() {
        control.withLock { _ in
            guard moment.withLock({ $0 }) != .stopped else { return }
            group.end(.stopped)
            group.finish()
            // What devices have in flight still goes into guest memory.
            for device in devices { device.quiesce() }
            moment.withLock { $0 = .stopped }
        }
        console.close()
    }

    // MARK: What it is doing

    /// Whether the vCPUs run.
    public var isRunning: Bool { moment.withLock { $0 } == .running && group.outcome == nil }

    /// Checks that the machine is paused.
    func requirePaused(_ purpose: String) throws(MachineError) {
        let moment = moment.withLock { $0 }
        guard moment == .paused else {
            throw MachineError(.wrongMoment, "cannot \(purpose): the machine is \(moment.rawValue), not paused")
        }
    }

    /// How the guest or the machine ended; nil while it lives.
    public var outcome: MachineOutcome? { group.outcome }

    /// Sleeps until the guest or the machine has ended.
    public func waitForOutcome() -> MachineOutcome { group.waitForOutcome() ?? .stopped }

    /// Sleeps until the end, for `timeout` at most (then nil).
    public func waitForOutcome(timeout: Duration) -> MachineOutcome? {
        let parts = timeout.components
        let nanoseconds =
            UInt64(clamping: parts.seconds).multipliedReportingOverflow(by: 1_000_000_000).partialValue
            &+ UInt64(clamping: parts.attoseconds / 1_000_000_000)
        return group.waitForOutcome(untilNanoseconds: ckvm_monotonic_nanoseconds() &+ nanoseconds)
    }

    /// What was worth telling when state was captured or restored.
    public var stateWarnings: [StateWarning] { warnings.withLock { $0 } }

    // MARK: The console

    /// The newest output of the serial line and of a virtio console, and how many bytes were written before it.
    public var serialHistory: (skipped: UInt64, bytes: [UInt8]) { console.history }

    /// Types into the virtio console, or into the serial line of a machine without. Returns how many bytes were taken:
    /// the rest must wait until the guest has read.
    public func sendSerialInput(_ bytes: [UInt8]) -> Int { virtioConsole?.receive(bytes) ?? serial.receive(bytes) }

    // MARK: Memory

    /// A copy of guest RAM; torn where the guest is writing.
    public func readMemory(at address: GuestAddress, byteCount: Int) throws -> [UInt8] {
        try ram.read(at: address, byteCount: byteCount)
    }

    /// Writes guest RAM, as a device would: the dirty log sees it.
    public func writeMemory(_ bytes: [UInt8], at address: GuestAddress) throws { try ram.write(bytes, at: address) }
}
