/// A vCPU: its shared mapping, and running it. State is in the extensions.

import CKVM
import Glibc

/// A KVM vCPU. KVM serialises the ioctls of one vCPU; `run` and everything that reads an exit belong to the thread
/// that runs it, and only `requestImmediateExit` is for others.
@safe
public final class VCPU: @unchecked Sendable {
    let descriptor: FileDescriptor
    /// Its number, and its APIC id.
    public let index: Int
    /// Bytes of the XSAVE area as KVM wants it for this VM (4096 where XSAVE2 is unknown).
    public let xsaveByteCount: Int
    let hasXSave2: Bool
    let hasExtendedSegments: Bool
    /// The entries that KVM has logged, when the VM has dirty rings.
    public let dirtyRing: DirtyRing?
    /// Shared with the kernel.
    @unsafe let shared: UnsafeMutablePointer<kvm_run>
    private let mappingSize: Int

    init(
        descriptor: consuming FileDescriptor, index: Int, mappingSize: Int, xsaveByteCount: Int,
        hasExtendedSegments: Bool, ringEntryCount: Int
    ) throws(KVMError) {
        let number = descriptor.rawValue
        let ring =
            ringEntryCount > 0
            ? try DirtyRing(vcpuDescriptor: number, vcpu: index, entryCount: ringEntryCount) : nil
        var base: UnsafeMutableRawPointer?
        let result = unsafe ckvm_mmap(mappingSize, PROT_READ | PROT_WRITE, MAP_SHARED, number, 0, &base)
        guard result == 0, let base = unsafe base else {
            throw KVMError(operation: "mmap", errno: -result, subject: "kvm_run of vcpu \(index)")
        }
        unsafe shared = base.bindMemory(to: kvm_run.self, capacity: 1)
        self.descriptor = descriptor
        self.index = index
        self.mappingSize = mappingSize
        self.xsaveByteCount = max(xsaveByteCount, MemoryLayout<kvm_xsave>.size)
        self.hasXSave2 = xsaveByteCount > 0
        self.hasExtendedSegments = hasExtendedSegments
        dirtyRing = ring
    }

    /// Takes over a descriptor, with an anonymous page in the place of the shared mapping.
    package init(adopting number: CInt, hasExtendedSegments: Bool, hasXSave2: Bool) throws(KVMError) {
        var base: UnsafeMutableRawPointer?
        let size = 12288
        let result = unsafe ckvm_mmap(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, &base)
        guard result == 0, let base = unsafe base else {
            throw KVMError(operation: "mmap", errno: -result, subject: "a page")
        }
        unsafe shared = base.bindMemory(to: kvm_run.self, capacity: 1)
        descriptor = FileDescriptor(adopting: number)
        index = 0
        mappingSize = size
        xsaveByteCount = MemoryLayout<kvm_xsave>.size
        self.hasXSave2 = hasXSave2
        self.hasExtendedSegments = hasExtendedSegments
        dirtyRing = nil
    }

    deinit { unsafe ckvm_munmap(shared, mappingSize) }

    var subject: String { "vcpu \(index)" }

    /// Enters the guest until it exits. Pending port or memory reads of the last exit are completed first.
    public func run() throws(KVMError) -> VCPUExit {
        let result = ckvm_ioctl(descriptor.rawValue, CKVM_RUN, 0)
        // EINTR: a signal, or immediate_exit. EAGAIN: an INIT or SIPI changed the vCPU's state; run again.
        if result == -Int(EINTR) || result == -Int(EAGAIN) { return .interrupted }
        guard result >= 0 else { throw KVMError("KVM_RUN", result, subject) }
        return unsafe VCPUExit(shared)
    }

    /// Makes the next (or current, when the thread is signalled after this) `run` return `.interrupted` at once.
    public func requestImmediateExit(_ isRequested: Bool) {
        unsafe ckvm_set_immediate_exit(shared, isRequested ? 1 : 0)
    }

    /// Finishes the port or memory access that the last exit left open, without running guest code: KVM reports half
    /// of such an instruction, and its state is only whole after one more entry (kernel document on `immediate_exit`).
    /// An instruction that needs several exits (`rep outs`) is finished one exit at a time: handle what is returned,
    /// and call again until it is `.interrupted`. The thread keeps no request for an immediate exit.
    public func completePendingAccess() throws(KVMError) -> VCPUExit {
        requestImmediateExit(true)
        defer { requestImmediateExit(false) }
        return try run()
    }
}
