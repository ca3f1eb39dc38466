/// How a device ends its guest.

import Synchronization

/// Where devices say that the guest is over; the vCPU whose access it was looks here after each one.
final class GuestEnd: Sendable {
    private let isRequested = Atomic(false)
    private let requested = Mutex<MachineOutcome?>(nil)

    /// The first end stays.
    func request(_ outcome: MachineOutcome) {
        requested.withLock { $0 = $0 ?? outcome }
        isRequested.store(true, ordering: .releasing)
    }

    var outcome: MachineOutcome? {
        isRequested.load(ordering: .acquiring) ? requested.withLock { $0 } : nil
    }
}
