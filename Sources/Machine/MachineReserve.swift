/// What a receiver can have ready before it knows the VM that comes.

import KVM
import Migrate
import Synchronization
import Units

/// RAM for one VM, of a size known beforehand, resident and shown to KVM. A page's first touch can cost several times
/// what receiving it does (under a hypervisor ten times): a receiver that has touched its memory while it waited is
/// spared that.
public final class MachineReserve: Sendable {
    /// The RAM of the VM that it is for.
    public let memory: ByteCount
    private let chassis: Mutex<Chassis?>

    /// Makes `memory` resident; whole huge pages where the backing and the host allow. Stops early, with the rest to be
    /// found later, once `isCancelled` is true: much memory takes its time.
    ///
    /// - Throws: `MachineError` when no machine can have that much RAM, or this host has not that much to give;
    ///   `KVMError` when the kernel refuses.
    public init(memory: ByteCount, host: HostOptions, isCancelled: () -> Bool = { false }) throws {
        if let problem = GuestMemoryLayout.problem(with: memory) { throw MachineError(.invalidOptions, problem) }
        if let room = HostMemory.available(for: host.memoryBacking), memory.rawValue > room {
            let text = HostMemory.shortage(of: memory.rawValue, room: room, backing: host.memoryBacking)
            throw MachineError(.invalidOptions, text)
        }
        let made = try Chassis(
            layout: GuestMemoryLayout.regions(for: memory), system: KVMSystem(path: host.kvmPath), host: host)
        try made.ram.populate(isCancelled: isCancelled)
        self.memory = memory
        chassis = Mutex(made)
    }

    /// Whether a VM with this memory would find it here.
    func fits(_ layout: [MachineConfiguration.Memory]) -> Bool {
        layout == GuestMemoryLayout.regions(for: memory) && heldByteCount > 0
    }

    /// Bytes that this host gets back when a VM of another size comes.
    var heldByteCount: UInt64 { chassis.withLock { $0 == nil ? 0 : memory.rawValue } }

    /// Gives it away, once. A VM with another layout gets nothing, and the host gets the reserve's memory back: it
    /// may need it for that VM.
    func take(for layout: [MachineConfiguration.Memory]) -> Chassis? {
        let taken = chassis.withLock { chassis in
            defer { chassis = nil }
            return chassis
        }
        return layout == GuestMemoryLayout.regions(for: memory) ? taken : nil
    }
}
