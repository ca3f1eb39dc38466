/// The port by which a test guest ends its machine.

import SelfTest

/// Answers where QEMU's isa-debug-exit does, so that one guest image ends under both. It has no state worth saving: a
/// machine whose guest has ended is not moved.
final class ExitPort: PortDevice {
    private let end: GuestEnd

    init(on bus: PortBus, end: GuestEnd) {
        self.end = end
        bus.add(SelfTestImage.exitPort...SelfTestImage.exitPort, self)
    }

    func readPort(offset: UInt16, size: Int) -> UInt32 { .max }
    func writePort(offset: UInt16, size: Int, value: UInt32) { end.request(.exited(code: value)) }
}
