/// What a kind of device adds to queues and transport.

import Synchronization
import VMState

/// The inside of a virtio device. Except where it says otherwise, everything is called by one thread at a time: the
/// device's own, or one that stops the device meanwhile.
public protocol VirtioBackend: AnyObject, Sendable {
    /// The virtio device type (virtio 1.2, 5). Constant.
    var deviceID: UInt32 { get }
    /// "virtio-blk": names the thread, and begins every line in the log. Constant.
    var name: String { get }
    /// Features beyond the common ones. Constant.
    var features: UInt64 { get }
    /// The largest size of each queue: powers of two. Constant.
    var queueSizes: [UInt16] { get }
    /// The configuration space after a reset. Any thread.
    var configuration: [UInt8] { get }

    /// Whether a set of offered features makes sense together. Any thread.
    func accepts(_ features: UInt64) -> Bool
    /// The driver writes into the configuration space. Any thread.
    func writeConfiguration(offset: Int, bytes: [UInt8], to configuration: inout [UInt8])
    /// Once, before anything else.
    func attach(_ host: BackendHost)
    /// The driver is ready; `queues` has nil where it left a queue alone.
    func activate(queues: [Virtqueue?], features: UInt64)
    /// Looks at all queues and at everything else that may be due, and does not block. It is called again when a queue
    /// was notified, and when what `waiting` names happened.
    func process() throws(VirtioFault)
    /// What the device's thread waits for besides notifications.
    var waiting: BackendWait { get }
    /// Waits for all work in flight and publishes it; takes no new chains.
    func drain()
    /// The queues are gone. What the device was told by the driver is forgotten if `isReset`; otherwise the queues come
    /// back at once.
    func deactivate(isReset: Bool)
    /// What is to be carried beyond features, queues and configuration; after `drain`.
    func save(configuration: [UInt8]) -> VirtioState.Device
    /// Puts back what `save` gave, before `activate`; the stream is not trusted.
    func load(_ state: VirtioState.Device, configuration: inout [UInt8]) throws(VirtioFault)
}

extension VirtioBackend {
    public func accepts(_ features: UInt64) -> Bool { true }
    public func writeConfiguration(offset: Int, bytes: [UInt8], to configuration: inout [UInt8]) {}
    public var waiting: BackendWait { BackendWait() }
    public func drain() {}
    public func save(configuration: [UInt8]) -> VirtioState.Device { .none }
    public func load(_ state: VirtioState.Device, configuration: inout [UInt8]) throws(VirtioFault) {
        guard state == .none else { throw VirtioFault("a state of another kind of device") }
    }
}

/// What wakes a device's thread besides the driver's notifications.
public struct BackendWait: Sendable {
    public struct Descriptor: Sendable {
        public var rawValue: CInt
        /// poll(2) events.
        public var events: CShort

        public init(_ rawValue: CInt, events: CShort) {
            self.rawValue = rawValue
            self.events = events
        }
    }

    public var descriptors: [Descriptor]
    /// At most this long; nil for ever, 0 when there is more to do at once.
    public var milliseconds: Int32?

    public init(_ descriptors: [Descriptor] = [], milliseconds: Int32? = nil) {
        self.descriptors = descriptors
        self.milliseconds = milliseconds
    }
}

/// What a device may ask of the transport around it. Any thread.
public final class BackendHost: Sendable {
    public let memory: any GuestMemoryAccess
    private let core: Mutex<WeakCore>
    private let say: @Sendable (String) -> Void
    private let spoken = Mutex<Set<String>>([])

    private struct WeakCore {
        weak var value: DeviceCore?
    }

    init(core: DeviceCore, memory: any GuestMemoryAccess, log: @escaping @Sendable (String) -> Void) {
        self.memory = memory
        self.core = Mutex(WeakCore(value: core))
        say = log
    }

    private var target: DeviceCore? { core.withLock { $0.value } }

    /// Makes `process` be called soon, on the device's thread.
    public func wake() { target?.kick.signal() }

    /// Changes the configuration space, and, with `interrupting`, tells the driver if it is at work.
    public func updateConfiguration(interrupting: Bool = true, _ change: (inout [UInt8]) -> Void) {
        target?.updateConfiguration(interrupting: interrupting, change)
    }

    /// The configuration space as the driver sees it.
    public var configuration: [UInt8] { target?.registers.withLock { $0.configuration } ?? [] }

    public func log(_ message: String) { say(message) }

    /// Logs a message the first time that one with this key comes.
    public func logOnce(_ key: String, _ message: @autoclosure () -> String) {
        if spoken.withLock({ $0.insert(key).inserted }) { say(message()) }
    }
}
