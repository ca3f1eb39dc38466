/// A virtio device behind the MMIO transport: what the machine holds.

import Synchronization
import VMState

/// The transport (virtio 1.2, 4.2) with a device inside. It does nothing for the driver until `unquiesce`.
public final class VirtioDevice: Sendable {
    /// The length of the register window.
    public static let windowByteCount: UInt64 = 0x1000
    /// The version of the state that `save` writes.
    public static let stateVersion = VirtioState.version

    let core: DeviceCore
    private let thread: DeviceThread

    /// `setInterrupt` sets the level of the device's interrupt line; it must not call the device back. `log` gets lines
    /// that begin with the device's name.
    public init(
        backend: any VirtioBackend, memory: any GuestMemoryAccess, setInterrupt: @escaping @Sendable (Bool) -> Void,
        log: @escaping @Sendable (String) -> Void = { _ in }
    ) throws(VirtioError) {
        let core = try DeviceCore(backend: backend, memory: memory, setInterrupt: setInterrupt, log: log)
        self.core = core
        thread = try DeviceThread(name: backend.name, kick: core.kick) { core.step() }
    }

    /// Nothing is under way when memory and files may go.
    deinit { quiesce() }

    /// The virtio device type: 1 network, 2 block, 3 console, 4 entropy, 5 balloon.
    public var deviceID: UInt32 { core.backend.deviceID }
    /// "virtio-blk".
    public var name: String { core.backend.name }

    /// As the driver's own reset: for a machine that starts anew. Waits for work in flight.
    public func reset() { writeRegister(offset: MMIORegister.status, size: 4, value: 0) }

    /// Takes no new chains, waits for all in flight, and publishes them.
    public func quiesce() {
        core.work.withLock { work in
            work.isRunning = false
            if work.isActive { core.backend.drain() }
        }
    }

    /// Works again, beginning with what the driver queued meanwhile.
    public func unquiesce() {
        core.work.withLock { $0.isRunning = true }
        core.kick.signal()
    }
}
