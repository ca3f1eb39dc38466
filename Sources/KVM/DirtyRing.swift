/// A vCPU's ring of dirtied pages.

import CKVM
import Glibc
import Synchronization

/// The ring in which KVM logs the pages that one vCPU dirties. Harvested entries count as free only after
/// `VirtualMachine.resetDirtyRings`.
@safe
public final class DirtyRing: @unchecked Sendable {
    public let entryCount: Int
    @unsafe private let entries: UnsafeMutablePointer<kvm_dirty_gfn>
    private let mappingSize: Int
    /// Position of the first entry not yet taken. One harvester at a time.
    private let next = Mutex<UInt32>(0)

    init(vcpuDescriptor: CInt, vcpu: Int, entryCount: Int) throws(KVMError) {
        precondition(entryCount > 0 && entryCount & (entryCount - 1) == 0)
        let size = entryCount * MemoryLayout<kvm_dirty_gfn>.stride
        let offset = Int(KVM_DIRTY_LOG_PAGE_OFFSET) * 4096
        var base: UnsafeMutableRawPointer?
        let result = unsafe ckvm_mmap(size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpuDescriptor, offset, &base)
        guard result == 0, let base = unsafe base else {
            throw KVMError(operation: "mmap", errno: -result, subject: "dirty ring of vcpu \(vcpu)")
        }
        unsafe entries = base.bindMemory(to: kvm_dirty_gfn.self, capacity: entryCount)
        self.entryCount = entryCount
        mappingSize = size
    }

    deinit { unsafe ckvm_munmap(entries, mappingSize) }

    /// Takes the oldest entries not yet taken, as many as fit, and says how many. `slot` of an entry holds the slot's
    /// number in its low 16 bits, `offset` the page within the slot.
    public func harvest(into buffer: UnsafeMutableBufferPointer<kvm_dirty_gfn>) -> Int {
        guard let base = buffer.baseAddress else { return 0 }
        return next.withLock { next in
            unsafe Int(ckvm_dirty_ring_take(entries, UInt32(entryCount), &next, base, UInt32(buffer.count)))
        }
    }
}
