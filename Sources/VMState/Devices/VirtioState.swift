/// The state of a virtio device behind the MMIO transport.

import StateSchema
import SwiftProtobuf

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// What the driver negotiated and where its rings are, of a drained device. A section of its own ("virtio.0"). Whether
/// the addresses lie in RAM, and the features fit the device, only the device can check.
public struct VirtioState: SavedState {
    public static let version: UInt32 = 1
    /// A console's input waits in the device until the guest takes it.
    static let maximumByteCount = 128 << 10
    /// More queues than any device here has.
    static let maximumQueueCount = 16

    /// One split virtqueue.
    public struct Queue: Equatable, Sendable {
        public var size: UInt16 = 0
        public var isReady = false
        public var descriptorAddress: UInt64 = 0
        public var driverAddress: UInt64 = 0
        public var deviceAddress: UInt64 = 0
        public var nextAvailable: UInt16 = 0
        public var nextUsed: UInt16 = 0

        public init() {}
    }

    /// What only one type of device has.
    public enum Device: Equatable, Sendable {
        /// Block and entropy devices: nothing.
        case none
        case network(announcePending: Bool)
        case console(input: [UInt8])
        case balloon(targetPages: UInt32, actualPages: UInt32)
    }

    /// The virtio device type.
    public var deviceID: UInt32 = 0
    public var status: UInt8 = 0
    public var interruptStatus: UInt8 = 0
    public var configGeneration: UInt32 = 0
    public var deviceFeaturesSelect: UInt32 = 0
    public var driverFeaturesSelect: UInt32 = 0
    /// What the driver accepted.
    public var driverFeatures: UInt64 = 0
    public var queueSelect: UInt32 = 0
    public var queues: [Queue] = []
    public var device = Device.none
    /// Fields that a newer migratectl wrote.
    private var unknownByteCount = 0

    public init() {}

    public func encoded() throws(StateError) -> [UInt8] {
        var wire = WireVirtio()
        wire.deviceID = deviceID
        wire.status = UInt32(status)
        wire.interruptStatus = UInt32(interruptStatus)
        wire.configGeneration = configGeneration
        wire.deviceFeaturesSelect = deviceFeaturesSelect
        wire.driverFeaturesSelect = driverFeaturesSelect
        wire.driverFeatures = driverFeatures
        wire.queueSelect = queueSelect
        wire.queues = queues.map { queue in
            var wire = WireVirtioQueue()
            wire.size = UInt32(queue.size)
            wire.ready = queue.isReady
            wire.descriptorAddress = queue.descriptorAddress
            wire.driverAddress = queue.driverAddress
            wire.deviceAddress = queue.deviceAddress
            wire.nextAvailable = UInt32(queue.nextAvailable)
            wire.nextUsed = UInt32(queue.nextUsed)
            return wire
        }
        switch device {
        case .none: break
        case .network(let announcePending): wire.network.announcePending = announcePending
        case .console(let input): wire.console.input = Data(input)
        case .balloon(let target, let actual):
            wire.balloon.targetPages = target
            wire.balloon.actualPages = actual
        }
        return try SectionCoder.encode(wire, "virtio state")
    }

    public init(decoding bytes: [UInt8], version: UInt32) throws(StateError) {
        let wire = try SectionCoder.decode(
            WireVirtio.self, bytes, version: version, newest: Self.version, limit: Self.maximumByteCount,
            "virtio state")
        let checker = WireChecker(part: "virtio state")
        deviceID = wire.deviceID
        status = try checker.narrow(wire.status, "status")
        interruptStatus = try checker.narrow(wire.interruptStatus, "interruptStatus")
        try checker.require(interruptStatus & ~3 == 0, "interruptStatus", "\(interruptStatus)")
        configGeneration = wire.configGeneration
        deviceFeaturesSelect = wire.deviceFeaturesSelect
        driverFeaturesSelect = wire.driverFeaturesSelect
        driverFeatures = wire.driverFeatures
        queueSelect = wire.queueSelect
        try checker.count(wire.queues.count, atMost: Self.maximumQueueCount, "queues")
        for (index, wire) in wire.queues.enumerated() {
            queues.append(try Queue(wire, WireChecker(part: "virtio state's queue \(index)")))
        }
        unknownByteCount = wire.unknownFields.data.count
        switch wire.device {
        case nil: break
        case .network(let network): device = .network(announcePending: network.announcePending)
        case .console(let console): device = .console(input: [UInt8](console.input))
        case .balloon(let balloon):
            device = .balloon(targetPages: balloon.targetPages, actualPages: balloon.actualPages)
        }
    }

    public var stateDescription: StateDescription {
        var rows = StateDescription()
        rows.add("deviceID", "\(deviceID)")
        rows.add(hex: "status", status)
        rows.add(hex: "interruptStatus", interruptStatus)
        rows.add("configGeneration", "\(configGeneration)")
        rows.add("deviceFeaturesSelect", "\(deviceFeaturesSelect)")
        rows.add("driverFeaturesSelect", "\(driverFeaturesSelect)")
        rows.add(hex: "driverFeatures", driverFeatures)
        rows.add("queueSelect", "\(queueSelect)")
        for (index, queue) in queues.enumerated() { rows.add("queue.\(index)", queue.stateDescription) }
        switch device {
        case .none: break
        case .network(let announcePending): rows.add(flag: "network.announcePending", announcePending)
        case .console(let input): rows.add(bytes: "console.input", input)
        case .balloon(let target, let actual):
            rows.add("balloon.targetPages", "\(target)")
            rows.add("balloon.actualPages", "\(actual)")
        }
        rows.add(unknown: unknownByteCount)
        return rows
    }
}

extension VirtioState.Queue {
    init(_ wire: WireVirtioQueue, _ checker: WireChecker) throws(StateError) {
        size = try checker.narrow(wire.size, "size")
        isReady = wire.ready
        descriptorAddress = wire.descriptorAddress
        driverAddress = wire.driverAddress
        deviceAddress = wire.deviceAddress
        nextAvailable = try checker.narrow(wire.nextAvailable, "nextAvailable")
        nextUsed = try checker.narrow(wire.nextUsed, "nextUsed")
        // A drained device answered all that it took.
        try checker.require(nextUsed == nextAvailable, "nextUsed", "\(nextUsed) where \(nextAvailable) were taken")
    }

    var stateDescription: StateDescription {
        var rows = StateDescription()
        rows.add("size", "\(size)")
        rows.add(flag: "ready", isReady)
        rows.add(hex: "descriptorAddress", descriptorAddress)
        rows.add(hex: "driverAddress", driverAddress)
        rows.add(hex: "deviceAddress", deviceAddress)
        rows.add("nextAvailable", "\(nextAvailable)")
        rows.add("nextUsed", "\(nextUsed)")
        return rows
    }
}
