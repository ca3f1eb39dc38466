/// Memory slots and the dirty log of a VM.

import CKVM
import Units

extension VirtualMachine {
    /// Maps `byteCount` bytes at `base` into the guest at `guestAddress`. A slot that exists is changed (its flags), or
    /// refused by KVM. The memory must stay mapped until the slot is removed or the VM is gone.
    public func setMemorySlot(
        _ slot: Int, guestAddress: GuestAddress, byteCount: Int, base: UnsafeMutableRawPointer,
        logsDirtyPages: Bool = false, isReadOnly: Bool = false
    ) throws(KVMError) {
        var region = kvm_userspace_memory_region()
        region.slot = UInt32(truncatingIfNeeded: slot)
        if logsDirtyPages { region.flags |= UInt32(KVM_MEM_LOG_DIRTY_PAGES) }
        if isReadOnly { region.flags |= UInt32(KVM_MEM_READONLY) }
        region.guest_phys_addr = guestAddress.rawValue
        region.memory_size = UInt64(byteCount)
        region.userspace_addr = UInt64(UInt(bitPattern: base))
        try descriptor.control(
            CKVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", with: &region, "slot \(slot)")
    }

    /// Takes a slot's memory away from the guest.
    public func removeMemorySlot(_ slot: Int) throws(KVMError) {
        var region = kvm_userspace_memory_region()
        region.slot = UInt32(truncatingIfNeeded: slot)
        try descriptor.control(
            CKVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", with: &region, "slot \(slot)")
    }

    /// Fills `bitmap` with one bit a page of the slot. It must hold the whole slot, rounded up to 64 pages. Without
    /// manual protection, KVM clears its log and protects the pages again in the same call.
    public func getDirtyLog(slot: Int, into bitmap: UnsafeMutableBufferPointer<UInt64>) throws(KVMError) {
        var log = unsafe kvm_dirty_log()
        unsafe log.slot = UInt32(truncatingIfNeeded: slot)
        unsafe log.dirty_bitmap = UnsafeMutableRawPointer(bitmap.baseAddress)
        try unsafe descriptor.control(CKVM_GET_DIRTY_LOG, "KVM_GET_DIRTY_LOG", with: &log, "slot \(slot)")
    }

    /// Clears the log of the pages whose bits are set, and protects them again. `firstPage` is a multiple of 64, and
    /// so is `pageCount` unless the range ends where the slot does (`KVM_CLEAR_DIRTY_LOG`).
    public func clearDirtyLog(
        slot: Int, firstPage: PageIndex, pageCount: Int, bitmap: UnsafeBufferPointer<UInt64>
    ) throws(KVMError) {
        precondition(pageCount <= bitmap.count * 64)
        var log = unsafe kvm_clear_dirty_log()
        unsafe log.slot = UInt32(truncatingIfNeeded: slot)
        unsafe log.num_pages = UInt32(pageCount)
        unsafe log.first_page = UInt64(firstPage.rawValue)
        unsafe log.dirty_bitmap = UnsafeMutableRawPointer(mutating: bitmap.baseAddress)
        try unsafe descriptor.control(CKVM_CLEAR_DIRTY_LOG, "KVM_CLEAR_DIRTY_LOG", with: &log, "slot \(slot)")
    }

    /// Gives the harvested entries of all rings back to KVM and protects their pages again; returns how many it took.
    /// Blocks the thread's signals meanwhile: a pending one makes some kernels lose pages (see CKVM.h). A count that
    /// differs from what was harvested means that the log is not to be believed.
    public func resetDirtyRings() throws(KVMError) -> Int {
        let result = ckvm_reset_dirty_rings(descriptor.rawValue)
        guard result >= 0 else { throw KVMError("KVM_RESET_DIRTY_RINGS", result, subject) }
        return result
    }
}
