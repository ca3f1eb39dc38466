/// A VM: capabilities and vCPUs here; memory, interrupts and clock in its extensions.

import CKVM
import Synchronization

/// A KVM virtual machine. KVM locks for itself: every call may come from any thread.
public final class VirtualMachine: Sendable {
    let descriptor: FileDescriptor
    private let vcpuMappingSize: Int
    /// Entries of each vCPU's dirty ring, 0 without rings.
    private let ringEntryCount = Atomic<Int>(0)

    init(descriptor: consuming FileDescriptor, vcpuMappingSize: Int) {
        self.descriptor = descriptor
        self.vcpuMappingSize = vcpuMappingSize
    }

    /// Takes over a descriptor without asking it anything.
    package convenience init(adopting descriptor: CInt, vcpuMappingSize: Int) {
        self.init(descriptor: FileDescriptor(adopting: descriptor), vcpuMappingSize: vcpuMappingSize)
    }

    var subject: String { "vm" }

    /// As `KVMSystem.check`, for this VM: some capabilities differ from VM to VM.
    public func check(_ capability: Capability) throws(KVMError) -> Int {
        try descriptor.control(
            CKVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION", value: UInt(capability.rawValue), capability.name)
    }

    /// Turns a capability on (`KVM_ENABLE_CAP`).
    public func enable(_ capability: Capability, argument: UInt64 = 0) throws(KVMError) {
        var request = kvm_enable_cap()
        request.cap = capability.rawValue
        request.args.0 = argument
        try descriptor.control(CKVM_ENABLE_CAP, "KVM_ENABLE_CAP", with: &request, capability.name)
    }

    /// Gives each vCPU made from now on a dirty ring of `entryCount` entries (a power of two). Before any vCPU is
    /// made; the bitmap log is then refused by KVM.
    public func enableDirtyRings(entryCount: Int) throws(KVMError) {
        let byteCount = UInt64(entryCount) * UInt64(MemoryLayout<kvm_dirty_gfn>.stride)
        let ordered = try check(.dirtyRingAcquireRelease) > 0
        try enable(ordered ? .dirtyRingAcquireRelease : .dirtyRing, argument: byteCount)
        ringEntryCount.store(entryCount, ordering: .releasing)
    }

    /// Entries of each vCPU's dirty ring, 0 without rings.
    public var dirtyRingEntryCount: Int { ringEntryCount.load(ordering: .acquiring) }

    /// A new vCPU; `index` is also its APIC id.
    public func makeVCPU(index: Int) throws(KVMError) -> VCPU {
        let number = try descriptor.control(
            CKVM_CREATE_VCPU, "KVM_CREATE_VCPU", value: UInt(bitPattern: index), "vcpu \(index)")
        let made = FileDescriptor(adopting: CInt(number))
        // KVM answers 0 where XSAVE2 is unknown; the structure was 4096 bytes then.
        let xsaveByteCount = try check(.xsave2)
        let hasExtendedSegments = try check(.sregs2) > 0
        return try VCPU(
            descriptor: made, index: index, mappingSize: vcpuMappingSize, xsaveByteCount: xsaveByteCount,
            hasExtendedSegments: hasExtendedSegments, ringEntryCount: dirtyRingEntryCount)
    }
}
