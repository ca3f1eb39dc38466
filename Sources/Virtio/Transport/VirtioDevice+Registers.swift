/// The MMIO register window, version 2 (virtio 1.2, 4.2.2).

import Synchronization

/// Offsets of the registers.
public enum MMIORegister {
    public static let magic: UInt64 = 0x000
    public static let version: UInt64 = 0x004
    public static let deviceID: UInt64 = 0x008
    public static let vendorID: UInt64 = 0x00C
    public static let deviceFeatures: UInt64 = 0x010
    public static let deviceFeaturesSelect: UInt64 = 0x014
    public static let driverFeatures: UInt64 = 0x020
    public static let driverFeaturesSelect: UInt64 = 0x024
    public static let queueSelect: UInt64 = 0x030
    public static let queueSizeMaximum: UInt64 = 0x034
    public static let queueSize: UInt64 = 0x038
    public static let queueReady: UInt64 = 0x044
    public static let queueNotify: UInt64 = 0x050
    public static let interruptStatus: UInt64 = 0x060
    public static let interruptAcknowledge: UInt64 = 0x064
    public static let status: UInt64 = 0x070
    public static let queueDescriptorsLow: UInt64 = 0x080
    public static let queueDescriptorsHigh: UInt64 = 0x084
    public static let queueDriverLow: UInt64 = 0x090
    public static let queueDriverHigh: UInt64 = 0x094
    public static let queueDeviceLow: UInt64 = 0x0A0
    public static let queueDeviceHigh: UInt64 = 0x0A4
    public static let sharedMemoryLengthLow: UInt64 = 0x0B0
    public static let sharedMemoryBaseHigh: UInt64 = 0x0BC
    public static let queueReset: UInt64 = 0x0C0
    public static let configGeneration: UInt64 = 0x0FC
    public static let configuration: UInt64 = 0x100
}

extension VirtioDevice {
    /// "virt", little-endian.
    private static let magic: UInt64 = 0x7472_6976
    /// "MGRT"; a driver uses it for nothing but telling devices apart.
    private static let vendor: UInt64 = 0x5452_474D

    // MARK: Reading

    /// A vCPU reads. Accesses that the specification does not know read as zeros.
    public func readRegister(offset: UInt64, size: Int) -> UInt64 {
        if offset >= MMIORegister.configuration { return readConfiguration(offset - MMIORegister.configuration, size) }
        guard size == 4, offset % 4 == 0 else { return 0 }
        switch offset {
        case MMIORegister.magic: return Self.magic
        case MMIORegister.version: return 2
        case MMIORegister.deviceID: return UInt64(core.backend.deviceID)
        case MMIORegister.vendorID: return Self.vendor
        // No shared memory region has an existing number: length and base are all ones (4.2.2).
        case MMIORegister.sharedMemoryLengthLow...MMIORegister.sharedMemoryBaseHigh: return 0xFFFF_FFFF
        default: return core.registers.withLock { read($0, offset) }
        }
    }

    private func read(_ registers: DeviceCore.Registers, _ offset: UInt64) -> UInt64 {
        switch offset {
        case MMIORegister.deviceFeatures:
            switch registers.deviceFeaturesSelect {
            case 0: return core.offeredFeatures & 0xFFFF_FFFF
            case 1: return core.offeredFeatures >> 32
            default: return 0
            }
        case MMIORegister.queueSizeMaximum:
            let limits = core.backend.queueSizes
            guard let index = selectedQueue(registers) else { return 0 }
            return UInt64(limits[index])
        case MMIORegister.queueReady:
            guard let index = selectedQueue(registers) else { return 0 }
            return registers.queues[index].isReady ? 1 : 0
        case MMIORegister.interruptStatus: return UInt64(registers.interruptStatus)
        case MMIORegister.status: return UInt64(registers.status)
        case MMIORegister.configGeneration: return UInt64(registers.configGeneration)
        default: return 0
        }
    }

    private func readConfiguration(_ offset: UInt64, _ size: Int) -> UInt64 {
        guard [1, 2, 4, 8].contains(size), let first = Int(exactly: offset) else { return 0 }
        return core.registers.withLock { registers in
            var value: UInt64 = 0
            for index in 0..<size where first < registers.configuration.count - index {
                value |= UInt64(registers.configuration[first + index]) << UInt64(8 * index)
            }
            return value
        }
    }

    private func selectedQueue(_ registers: DeviceCore.Registers) -> Int? {
        guard let index = Int(exactly: registers.queueSelect), index < registers.queues.count else { return nil }
        return index
    }

    // MARK: Writing

    /// A vCPU writes. Accesses that the specification does not know do nothing.
    public func writeRegister(offset: UInt64, size: Int, value: UInt64) {
        if offset >= MMIORegister.configuration {
            return writeConfiguration(offset - MMIORegister.configuration, size, value)
        }
        guard size == 4, offset % 4 == 0 else { return }
        let value = UInt32(truncatingIfNeeded: value)
        switch offset {
        // All queues are looked at: which one it was does not matter.
        case MMIORegister.queueNotify: core.kick.signal()
        case MMIORegister.status: writeStatus(value)
        case MMIORegister.queueReady: writeQueueReady(value)
        default: core.registers.withLock { write(&$0, offset, value) }
        }
    }

    private func write(_ registers: inout DeviceCore.Registers, _ offset: UInt64, _ value: UInt32) {
        switch offset {
        case MMIORegister.deviceFeaturesSelect: registers.deviceFeaturesSelect = value
        case MMIORegister.driverFeaturesSelect: registers.driverFeaturesSelect = value
        case MMIORegister.driverFeatures:
            // What was agreed stays agreed (3.1.1).
            guard registers.status & DeviceStatus.featuresOK == 0 else { return }
            switch registers.driverFeaturesSelect {
            case 0: registers.driverFeatures.low = value
            case 1: registers.driverFeatures.high = value
            default: break
            }
        case MMIORegister.queueSelect: registers.queueSelect = value
        case MMIORegister.interruptAcknowledge:
            registers.interruptStatus &= ~UInt8(truncatingIfNeeded: value)
            core.updateLine(&registers)
        default:
            // A queue's place is fixed while it is ready (4.2.2.2).
            guard let index = selectedQueue(registers), !registers.queues[index].isReady else { return }
            writeQueue(&registers.queues[index], offset, value)
        }
    }

    private func writeQueue(_ queue: inout DeviceCore.QueueRegisters, _ offset: UInt64, _ value: UInt32) {
        switch offset {
        // A size that does not fit the register is kept as one that is refused when the queue becomes ready.
        case MMIORegister.queueSize: queue.size = UInt16(exactly: value) ?? 0
        case MMIORegister.queueDescriptorsLow: queue.descriptors.low = value
        case MMIORegister.queueDescriptorsHigh: queue.descriptors.high = value
        case MMIORegister.queueDriverLow: queue.driver.low = value
        case MMIORegister.queueDriverHigh: queue.driver.high = value
        case MMIORegister.queueDeviceLow: queue.device.low = value
        case MMIORegister.queueDeviceHigh: queue.device.high = value
        default: break
        }
    }

    private func writeConfiguration(_ offset: UInt64, _ size: Int, _ value: UInt64) {
        guard [1, 2, 4, 8].contains(size), let first = Int(exactly: offset) else { return }
        let bytes = (0..<size).map { UInt8(truncatingIfNeeded: value >> UInt64(8 * $0)) }
        core.registers.withLock { registers in
            guard first < registers.configuration.count, size <= registers.configuration.count - first else { return }
            core.backend.writeConfiguration(offset: first, bytes: bytes, to: &registers.configuration)
        }
    }

    // MARK: Status and queues: these wait for work in flight

    private func writeStatus(_ value: UInt32) {
        core.work.withLock { work in
            guard value != 0 else { return reset(&work) }
            core.registers.withLock { registers in
                // A driver sets bits; only a reset clears them (2.1.1).
                var wanted = UInt8(truncatingIfNeeded: value) & DeviceStatus.settable | registers.status
                if wanted & DeviceStatus.featuresOK != 0, !accepts(registers.driverFeatures) {
                    wanted &= ~DeviceStatus.featuresOK
                }
                if wanted & DeviceStatus.featuresOK == 0 { wanted &= ~DeviceStatus.driverOK }
                registers.status = wanted
            }
            core.start(&work)
        }
    }

    /// Whether the driver may go on with these features (3.1.1, step 5).
    func accepts(_ features: UInt64) -> Bool {
        features & ~core.offeredFeatures == 0 && features & Feature.version1 != 0 && core.backend.accepts(features)
    }

    private func reset(_ work: inout DeviceCore.Work) {
        core.stop(&work, isReset: true)
        let backend = core.backend
        core.registers.withLock { registers in
            registers.status = 0
            registers.interruptStatus = 0
            registers.deviceFeaturesSelect = 0
            registers.driverFeaturesSelect = 0
            registers.driverFeatures = 0
            registers.queueSelect = 0
            registers.queues = backend.queueSizes.map { DeviceCore.QueueRegisters(size: $0) }
            core.updateLine(&registers)
        }
    }

    private func writeQueueReady(_ value: UInt32) {
        core.work.withLock { work in
            let (index, queue, features) = core.registers.withLock { registers in
                let index = selectedQueue(registers)
                let queue = index.map { registers.queues[$0] }
                return (index, queue, registers.driverFeatures)
            }
            guard let index, var queue, queue.isReady != (value & 1 != 0) else { return }
            // The backend holds its queues: it gets them anew, each going on where it was.
            core.stop(&work, isReset: false)
            queue.nextIndex = 0
            queue.isReady = value & 1 != 0
            if queue.isReady {
                var alone = [DeviceCore.QueueRegisters](repeating: .init(size: 0), count: core.backend.queueSizes.count)
                alone[index] = queue
                do throws(VirtioFault) {
                    _ = try core.makeQueues(alone, features: features)
                } catch {
                    return core.needReset(&work, error)
                }
            }
            let changed = queue
            core.registers.withLock { $0.queues[index] = changed }
            core.start(&work)
        }
    }
}

extension UInt64 {
    /// The lower 32 bits.
    fileprivate var low: UInt32 {
        get { UInt32(truncatingIfNeeded: self) }
        set { self = self & ~0xFFFF_FFFF | UInt64(newValue) }
    }
    /// The upper 32 bits.
    fileprivate var high: UInt32 {
        get { UInt32(truncatingIfNeeded: self >> 32) }
        set { self = self & 0xFFFF_FFFF | UInt64(newValue) << 32 }
    }
}
