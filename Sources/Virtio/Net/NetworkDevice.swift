/// A network card (virtio 1.2, 5.1) on a tap interface.

import CLibURing
import Glibc
import Synchronization
import VMState

/// virtio-net: one pair of queues and a control queue.
public final class NetworkDevice: VirtioBackend, @unchecked Sendable {
    /// Feature bits.
    public enum Features {
        public static let checksum: UInt64 = 1 << 0
        public static let guestChecksum: UInt64 = 1 << 1
        public static let mac: UInt64 = 1 << 5
        public static let guestTSO4: UInt64 = 1 << 7
        public static let guestTSO6: UInt64 = 1 << 8
        public static let hostTSO4: UInt64 = 1 << 11
        public static let hostTSO6: UInt64 = 1 << 12
        public static let mergeableBuffers: UInt64 = 1 << 15
        public static let status: UInt64 = 1 << 16
        public static let controlQueue: UInt64 = 1 << 17
        public static let guestAnnounce: UInt64 = 1 << 21
    }

    public let deviceID: UInt32 = 1
    public let name = "virtio-net"
    public let features =
        Features.checksum | Features.guestChecksum | Features.mac | Features.guestTSO4 | Features.guestTSO6
        | Features.hostTSO4 | Features.hostTSO6 | Features.mergeableBuffers | Features.status | Features.controlQueue
        | Features.guestAnnounce
    /// Receive, transmit, control.
    public let queueSizes: [UInt16] = [256, 256, 64]
    public let configuration: [UInt8]

    /// The longest frame with its header: 64 KiB behind an Ethernet header with a VLAN tag.
    public static let frameLimit = (64 << 10) + 18 + NetworkPort.headerByteCount
    static let statusOffset = 6
    static let linkUp: UInt16 = 1
    static let announce: UInt16 = 2

    private let port: NetworkPort
    private let mac: MACAddress

    // Under the device's work lock, except the host, which never changes.
    private var host: BackendHost?
    private var agreed: UInt64 = 0
    private var receiver: NetworkReceiver?
    private var transmitter: NetworkTransmitter?
    private var controlQueue: Virtqueue?
    private var hasMore = false
    private let announcer: NetworkAnnouncer

    public init(port: NetworkPort, mac: MACAddress) {
        self.port = port
        self.mac = mac
        announcer = NetworkAnnouncer(frame: mac.reverseARP)
        var space = ConfigurationSpace(byteCount: 12)
        for (index, byte) in mac.bytes.enumerated() { space.set(byte, at: index) }
        space.set(Self.linkUp, at: Self.statusOffset)
        space.set(UInt16(1), at: 8)  // pairs of queues
        configuration = space.bytes
    }

    /// Features that need another (5.1.3.1).
    public func accepts(_ features: UInt64) -> Bool {
        func needs(_ feature: UInt64, _ other: UInt64) -> Bool { features & feature == 0 || features & other != 0 }
        return needs(Features.guestTSO4 | Features.guestTSO6, Features.guestChecksum)
            && needs(Features.hostTSO4 | Features.hostTSO6, Features.checksum)
            && needs(Features.guestAnnounce, Features.controlQueue)
    }

    /// After a move: tells the network where the guest is now, by frames from here and, if the guest offered that, by
    /// the guest itself. Any thread; after `unquiesce`.
    public func announce() {
        announcer.begin()
        if let host, announcer.guestAnnounces { host.updateConfiguration { Self.setAnnounce(&$0, true) } }
        host?.wake()
    }

    private static func setAnnounce(_ configuration: inout [UInt8], _ isSet: Bool) {
        let status = configuration.littleEndian16(at: statusOffset)
        configuration.setLittleEndian(isSet ? status | announce : status & ~announce, at: statusOffset)
    }

    public func attach(_ host: BackendHost) { self.host = host }

    public func activate(queues: [Virtqueue?], features: UInt64) {
        agreed = features
        announcer.setGuestAnnounces(features & Features.guestAnnounce != 0 && queues[2] != nil)
        setOffload()
        receiver = queues[0].map {
            NetworkReceiver(
                queue: $0, port: port, merges: features & Features.mergeableBuffers != 0,
                trustsChecksum: features & Features.guestChecksum != 0)
        }
        transmitter = queues[1].map { NetworkTransmitter(queue: $0, port: port) }
        controlQueue = features & Features.controlQueue != 0 ? queues[2] : nil
    }

    public func deactivate(isReset: Bool) {
        (receiver, transmitter, controlQueue, hasMore) = (nil, nil, nil, false)
        announcer.setGuestAnnounces(false)
        if isReset {
            agreed = 0
            setOffload()
            host?.updateConfiguration(interrupting: false) { Self.setAnnounce(&$0, false) }
        }
    }

    private func setOffload() {
        let result = port.setOffload(
            checksum: agreed & Features.guestChecksum != 0, tso4: agreed & Features.guestTSO4 != 0,
            tso6: agreed & Features.guestTSO6 != 0)
        if result < 0 { host?.logOnce("offload", "\(port.name) does not offload: \(errorText(-result))") }
    }

    // MARK: Rounds

    public var waiting: BackendWait {
        var events: CInt = 0
        if let receiver, receiver.wantsFrames { events |= POLLIN }
        if let transmitter, transmitter.isBlocked { events |= CInt(POLLOUT) }
        let wait = hasMore ? 0 : announcer.millisecondsToNext
        return BackendWait(
            events == 0 ? [] : [.init(port.descriptor, events: CShort(truncatingIfNeeded: events))], milliseconds: wait)
    }

    public func process() throws(VirtioFault) {
        hasMore = false
        announcer.sendDue(to: port)
        if let transmitter { hasMore = try transmitter.process() || hasMore }
        if let receiver, !receiver.isGone {
            hasMore = try receiver.process() || hasMore
            if receiver.isGone { host?.logOnce("gone", "\(port.name) is gone: nothing is received any more") }
        }
        if let controlQueue { try control(controlQueue) }
    }

    /// The control queue (5.1.6.5): the announcement's acknowledgement is the only command of what is offered.
    private func control(_ queue: Virtqueue) throws(VirtioFault) {
        defer { queue.publish() }
        for _ in 0..<Int(queueSizes[2]) {
            guard let chain = try queue.next() else {
                hasMore = try queue.rearm() || hasMore
                return
            }
            guard chain.writableByteCount > 0 else { throw VirtioFault("a command without a byte for the answer") }
            let command = chain.read(count: 2)
            let isAcknowledgement = command == [3, 0]
            if isAcknowledgement { host?.updateConfiguration(interrupting: false) { Self.setAnnounce(&$0, false) } }
            try chain.write([isAcknowledgement ? 0 : 1])
            queue.complete(chain.head, written: 1)
        }
        hasMore = true
    }

    // MARK: State

    public func save(configuration: [UInt8]) -> VirtioState.Device {
        .network(announcePending: configuration.littleEndian16(at: Self.statusOffset) & Self.announce != 0)
    }

    public func load(_ state: VirtioState.Device, configuration: inout [UInt8]) throws(VirtioFault) {
        switch state {
        case .none: break
        case .network(let announcePending): Self.setAnnounce(&configuration, announcePending)
        default: throw VirtioFault("a state of another kind of device")
        }
    }
}
