/// What a device's thread and the vCPUs share.
///
/// Two locks, always taken in this order: `work` is held while queues are worked on, by the device's thread or by whoever
/// stops the device; `registers` for an instant at each access of a register. So a vCPU waits for work in flight only when
/// it resets the device or takes a queue away.

import Synchronization
import VMState

final class DeviceCore: Sendable {
    /// One queue as the driver configured it.
    struct QueueRegisters {
        var size: UInt16
        var isReady = false
        var descriptors: UInt64 = 0
        var driver: UInt64 = 0
        var device: UInt64 = 0
        /// Where the rings continue while the queue is not being worked on.
        var nextIndex: UInt16 = 0

        var layout: RingLayout { RingLayout(size: size, descriptors: descriptors, driver: driver, device: device) }
    }

    struct Registers {
        var status: UInt8 = 0
        var interruptStatus: UInt8 = 0
        var deviceFeaturesSelect: UInt32 = 0
        var driverFeaturesSelect: UInt32 = 0
        var driverFeatures: UInt64 = 0
        var queueSelect: UInt32 = 0
        var queues: [QueueRegisters]
        var configuration: [UInt8]
        var configGeneration: UInt32 = 0
        var lineLevel = false
    }

    struct Work {
        /// Between `unquiesce` and `quiesce`.
        var isRunning = false
        /// The driver is ready and the backend has its queues.
        var isActive = false
        var queues: [Virtqueue?] = []
    }

    let backend: any VirtioBackend
    let memory: any GuestMemoryAccess
    let offeredFeatures: UInt64
    let kick: EventDescriptor
    let registers: Mutex<Registers>
    let work = Mutex(Work())
    private let setInterrupt: @Sendable (Bool) -> Void
    private let log: @Sendable (String) -> Void
    /// A driver that goes wrong again after each reset must not fill the log.
    private let faultCount = Atomic(0)
    private static let loggedFaultLimit = 16

    init(
        backend: any VirtioBackend, memory: any GuestMemoryAccess, setInterrupt: @escaping @Sendable (Bool) -> Void,
        log: @escaping @Sendable (String) -> Void
    ) throws(VirtioError) {
        self.backend = backend
        self.memory = memory
        self.setInterrupt = setInterrupt
        let name = backend.name
        self.log = { message in log("\(name): \(message)") }
        offeredFeatures = backend.features | Feature.common
        kick = try EventDescriptor()
        registers = Mutex(
            Registers(
                queues: backend.queueSizes.map { QueueRegisters(size: $0) }, configuration: backend.configuration))
        backend.attach(BackendHost(core: self, memory: memory, log: self.log))
    }

    // MARK: The device's thread

    /// One round of work.
    func step() -> BackendWait {
        work.withLock { work in
            guard work.isRunning, work.isActive else { return BackendWait() }
            do throws(VirtioFault) {
                try backend.process()
                return backend.waiting
            } catch {
                needReset(&work, error)
                return BackendWait()
            }
        }
    }

    // MARK: Under the work lock

    /// The driver did what it must not: nothing more is done for it until it resets the device.
    func needReset(_ work: inout Work, _ fault: VirtioFault) {
        stop(&work, isReset: false)
        registers.withLock { registers in
            registers.status |= DeviceStatus.needsReset
            if registers.status & DeviceStatus.driverOK != 0 {
                registers.configGeneration &+= 1
                raise(InterruptCause.configuration, &registers)
            }
        }
        let count = faultCount.add(1, ordering: .relaxed).newValue
        guard count <= Self.loggedFaultLimit else { return }
        let last = count == Self.loggedFaultLimit ? "; more of this is not logged" : ""
        log("the driver went wrong, and must reset the device: \(fault.message)\(last)")
    }

    /// Gives the backend its queues, if the driver is ready and nothing is wrong.
    func start(_ work: inout Work) {
        let (status, features, queues) = registers.withLock { ($0.status, $0.driverFeatures, $0.queues) }
        guard !work.isActive, status & DeviceStatus.driverOK != 0, status & DeviceStatus.needsReset == 0 else { return }
        do throws(VirtioFault) {
            work.queues = try makeQueues(queues, features: features)
        } catch {
            return needReset(&work, error)
        }
        work.isActive = true
        backend.activate(queues: work.queues, features: features)
        kick.signal()
    }

    /// Checks the geometry of ready queues.
    func makeQueues(_ registers: [QueueRegisters], features: UInt64) throws(VirtioFault) -> [Virtqueue?] {
        var made: [Virtqueue?] = []
        let limits = backend.queueSizes
        for (index, queue) in registers.enumerated() {
            guard queue.isReady else {
                made.append(nil)
                continue
            }
            made.append(
                try Virtqueue(
                    index: index, layout: queue.layout, maximumSize: limits[index], features: features,
                    nextIndex: queue.nextIndex, memory: memory,
                    notify: { [weak self] in self?.interrupt(InterruptCause.usedBuffers) }))
        }
        return made
    }

    /// Waits for work in flight and takes the queues back.
    func stop(_ work: inout Work, isReset: Bool) {
        if work.isActive {
            backend.drain()
            let indices = work.queues.map { $0?.nextUsed }
            registers.withLock { registers in
                for (index, next) in indices.enumerated() {
                    if let next { registers.queues[index].nextIndex = next }
                }
            }
            backend.deactivate(isReset: isReset)
            work.isActive = false
            work.queues = []
        } else if isReset {
            backend.deactivate(isReset: true)
        }
    }

    // MARK: Interrupts and configuration

    func interrupt(_ cause: UInt8) { registers.withLock { raise(cause, &$0) } }

    private func raise(_ cause: UInt8, _ registers: inout Registers) {
        registers.interruptStatus |= cause
        updateLine(&registers)
    }

    func updateLine(_ registers: inout Registers) {
        let level = registers.interruptStatus != 0
        guard level != registers.lineLevel else { return }
        registers.lineLevel = level
        setInterrupt(level)
    }

    func updateConfiguration(interrupting: Bool, _ change: (inout [UInt8]) -> Void) {
        registers.withLock { registers in
            change(&registers.configuration)
            registers.configGeneration &+= 1
            guard interrupting, registers.status & DeviceStatus.driverOK != 0 else { return }
            raise(InterruptCause.configuration, &registers)
        }
    }
}
