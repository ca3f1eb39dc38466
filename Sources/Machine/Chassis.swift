/// The parts of a machine that do not depend on what will run in it.

import KVM
import Migrate

/// KVM's VM with its interrupt controllers, and the RAM that its guest sees. Showing RAM to KVM takes about 10 ms
/// (it waits for an SRCU grace period), so a receiver has it done before a migration begins.
final class Chassis: Sendable {
    let vm: VirtualMachine
    let ram: GuestRAM

    init(layout: [MachineConfiguration.Memory], system: KVMSystem, host: HostOptions) throws {
        vm = try system.makeVM()
        // Rings must be there before the first vCPU.
        if host.dirtyTracker == .ring { try vm.enableDirtyRings(entryCount: host.dirtyRingEntryCount) }
        try vm.setIdentityMapAddress(GuestMemoryLayout.identityMap)
        try vm.setTSSAddress(GuestMemoryLayout.taskState)
        try vm.createInterruptChips()
        try vm.createPIT()
        ram = try GuestRAM(layout: layout, backing: host.memoryBacking)
        try ram.map(into: vm)
    }
}
