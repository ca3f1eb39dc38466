/// The locks on a machine's disks, which go with the machine.

import Migrate
import Synchronization
import Virtio

/// Makes what was written to disks stable, beside whatever else is done while a VM stands still.
final class DiskFlush: Sendable {
    private let result = Monitor<Result<Void, VirtioError>?>(nil)

    /// Begins, on a thread of its own that ends by itself: nobody who resumes the VM waits for it.
    init(_ disks: [BlockFile]) throws(MachineError) {
        try Thread(name: "disk-flush") { [result] in
            let outcome = Result { () throws(VirtioError) in try Self.synchronize(disks) }
            result.change { $0 = outcome }
        }.abandon()
    }

    /// Waits for the end.
    func finish() throws { try result.wait { $0 }.get() }

    static func synchronize(_ disks: [BlockFile]) throws(VirtioError) {
        for disk in disks { try disk.synchronize() }
    }
}

extension Machine {
    private var disks: [BlockFile] { devices.compactMap { ($0 as? VirtioAdapter)?.disk } }
    private var writableDisks: [BlockFile] { disks.filter { !$0.isReadOnly } }

    /// The devices stand still: the disks are made stable while the state is captured and sent, in case they are to be
    /// released (DESIGN section 6).
    func beginDiskFlush() {
        let disks = writableDisks
        // Without a thread, `releaseDisks` does it.
        diskFlush.withLock { $0 = disks.isEmpty ? nil : try? DiskFlush(disks) }
    }

    /// What runs on writes again: an earlier flush says nothing about it.
    func forgetDiskFlush() { diskFlush.withLock { $0 = nil } }

    public func releaseDisks() throws {
        if let flush = diskFlush.withLock({ $0 }) {
            try flush.finish()
        } else {
            try DiskFlush.synchronize(writableDisks)
        }
        for disk in disks { disk.unlock() }
    }

    public func lockDisks() throws {
        var locked: [BlockFile] = []
        for disk in disks {
            do throws(VirtioError) {
                try disk.lock()
            } catch {
                for disk in locked { disk.unlock() }
                throw MachineError(.deviceUnavailable, error.message)
            }
            locked.append(disk)
        }
    }
}
