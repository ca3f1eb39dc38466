/// The port by which a test guest ends its machine.

import SelfTest
import Synchronization

/// Answers where QEMU's isa-debug-exit does, so that one guest image ends under both. It has no state worth saving: a
/// machine whose guest has ended is not moved.
final class ExitPort: PortDevice {
    private let written = Mutex<UInt32?>(nil)

    init(on bus: PortBus) { bus.add(SelfTestImage.exitPort...SelfTestImage.exitPort, self) }

    /// What the guest wrote; nil while it lives.
    var code: UInt32? { written.withLock { $0 } }

    func readPort(offset: UInt16, size: Int) -> UInt32 { .max }
    func writePort(offset: UInt16, size: Int, value: UInt32) { written.withLock { $0 = $0 ?? value } }
}
