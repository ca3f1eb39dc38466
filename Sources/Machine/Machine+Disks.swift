/// The locks on a machine's disks, which go with the machine.

import Migrate
import Virtio

extension Machine {
    private var disks: [BlockFile] { devices.compactMap { ($0 as? VirtioAdapter)?.disk } }

    public func releaseDisks() throws {
        for disk in disks where !disk.isReadOnly { try disk.synchronize() }
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
