/// Guest RAM that is resident before there is a VM to use it.

import KVM
import Migrate
import Synchronization
import Units

/// RAM for one VM, of a size known beforehand. A page's first touch can cost several times what receiving it does
/// (under a hypervisor ten times): a receiver that has touched its memory while it waited is spared that.
public final class MemoryReserve: Sendable {
    /// What the reserve holds until it is taken.
    public let memory: ByteCount
    private let ram: Mutex<GuestRAM?>

    /// Makes `memory` resident; whole huge pages where the backing and the host allow.
    ///
    /// - Throws: `MachineError` when no machine can have that much RAM, or this host has not that much to give;
    ///   `KVMError` when the kernel refuses.
    public init(memory: ByteCount, backing: MemoryBacking) throws {
        if let problem = GuestMemoryLayout.problem(with: memory) { throw MachineError(.invalidOptions, problem) }
        if let room = HostMemory.available(for: backing), memory.rawValue > room {
            throw MachineError(.invalidOptions, HostMemory.shortage(of: memory.rawValue, room: room, backing: backing))
        }
        let made = try GuestRAM(layout: GuestMemoryLayout.regions(for: memory), backing: backing)
        try made.populate(isCancelled: { false })
        self.memory = memory
        ram = Mutex(made)
    }

    /// Whether a VM with this memory would find it here.
    func fits(_ layout: [MachineConfiguration.Memory]) -> Bool {
        layout == GuestMemoryLayout.regions(for: memory) && ram.withLock { $0 != nil }
    }

    /// Bytes that this host gets back when a VM of another size comes.
    var heldByteCount: UInt64 { ram.withLock { $0 == nil ? 0 : memory.rawValue } }

    /// Gives the RAM away, once. A VM with another layout gets nothing, and the host gets the reserve's memory back:
    /// it may need it for that VM.
    func take(for layout: [MachineConfiguration.Memory]) -> GuestRAM? {
        let fits = layout == GuestMemoryLayout.regions(for: memory)
        let taken = ram.withLock { ram in
            defer { ram = nil }
            return ram
        }
        return fits ? taken : nil
    }
}
