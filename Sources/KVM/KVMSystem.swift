/// /dev/kvm itself: what this host's KVM can do, and the maker of VMs.

import CKVM
import Glibc

/// An open `/dev/kvm`.
public final class KVMSystem: Sendable {
    private let descriptor: FileDescriptor
    /// The path that was opened, for messages.
    public let path: String

    /// Opens KVM and checks that it speaks the one API version that was ever stable.
    public init(path: String = "/dev/kvm") throws(KVMError) {
        descriptor = try FileDescriptor(opening: path, flags: O_RDWR)
        self.path = path
        let version = try apiVersion()
        guard version == KVM_API_VERSION else {
            throw KVMError(operation: "KVM_GET_API_VERSION", errno: ENOTSUP, subject: path)
        }
    }

    /// Takes over a descriptor without asking it anything.
    package init(adopting descriptor: CInt) {
        self.descriptor = FileDescriptor(adopting: descriptor)
        path = "descriptor \(descriptor)"
    }

    /// 12 on every kernel since 2.6.22.
    public func apiVersion() throws(KVMError) -> Int {
        try descriptor.control(CKVM_GET_API_VERSION, "KVM_GET_API_VERSION", path)
    }

    /// 0 when KVM lacks the capability; otherwise a positive number whose meaning depends on the capability.
    public func check(_ capability: Capability) throws(KVMError) -> Int {
        try descriptor.control(
            CKVM_CHECK_EXTENSION, "KVM_CHECK_EXTENSION", value: UInt(capability.rawValue), capability.name)
    }

    /// The size of a vCPU's shared mapping.
    public func vcpuMappingSize() throws(KVMError) -> Int {
        try descriptor.control(CKVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE", path)
    }

    /// Every CPUID leaf that KVM can give a guest on this host.
    public func supportedCPUID() throws(KVMError) -> [kvm_cpuid_entry2] {
        // The kernel answers E2BIG until there is room; its own limit is 256 entries (KVM_MAX_CPUID_ENTRIES).
        var capacity = 256
        while true {
            var buffer = FlexibleBuffer<kvm_cpuid2, kvm_cpuid_entry2>(capacity: capacity)
            buffer.header.nent = UInt32(capacity)
            do {
                try unsafe descriptor.control(
                    CKVM_GET_SUPPORTED_CPUID, "KVM_GET_SUPPORTED_CPUID", at: buffer.pointer, path)
            } catch {
                guard error.errno == E2BIG, capacity < 4096 else { throw error }
                capacity *= 2
                continue
            }
            return buffer.elements(Int(buffer.header.nent))
        }
    }

    /// The indices of the MSRs that make up a vCPU's state on this host.
    public func saveableMSRs() throws(KVMError) -> [UInt32] {
        // With too little room the kernel says E2BIG and how many there are.
        let probe = FlexibleBuffer<kvm_msr_list, UInt32>(capacity: 0)
        do {
            try unsafe descriptor.control(
                CKVM_GET_MSR_INDEX_LIST, "KVM_GET_MSR_INDEX_LIST", at: probe.pointer, path)
            return []
        } catch {
            guard error.errno == E2BIG else { throw error }
        }
        let capacity = Int(min(probe.header.nmsrs, 4096))
        var buffer = FlexibleBuffer<kvm_msr_list, UInt32>(capacity: capacity)
        buffer.header.nmsrs = UInt32(capacity)
        try unsafe descriptor.control(CKVM_GET_MSR_INDEX_LIST, "KVM_GET_MSR_INDEX_LIST", at: buffer.pointer, path)
        return buffer.elements(Int(buffer.header.nmsrs))
    }

    /// A new VM without memory, interrupt controllers or vCPUs.
    public func makeVM() throws(KVMError) -> VirtualMachine {
        let number = try createVM()
        let made = FileDescriptor(adopting: number)
        return VirtualMachine(descriptor: made, vcpuMappingSize: try vcpuMappingSize())
    }

    private func createVM() throws(KVMError) -> CInt {
        // EINTR: a signal arrived while the kernel set up the VM; nothing was made.
        while true {
            do {
                return CInt(try descriptor.control(CKVM_CREATE_VM, "KVM_CREATE_VM", path))
            } catch {
                guard error.errno == EINTR else { throw error }
            }
        }
    }
}
