/// Why a vCPU came back from the guest.

import CKVM
import Units

/// The reason of a vCPU's exit, with what is needed to act on it.
public enum VCPUExit: Sendable {
    /// Port I/O. The data is in the vCPU's shared mapping until it runs again.
    case portIO(PortAccess)
    /// An access to guest physical memory that no slot covers.
    case memoryIO(MemoryAccess)
    /// A signal or a request for an immediate exit.
    case interrupted
    case halted
    /// A triple fault, or a shutdown that the guest asked for.
    case shutdown
    /// `KVM_SYSTEM_EVENT_*`.
    case systemEvent(type: UInt32)
    /// The ring is (nearly) full: harvest and reset before running on.
    case dirtyRingFull
    /// The hardware refused to enter the guest.
    case failedEntry(hardwareReason: UInt64)
    /// KVM gave up, for example on an instruction that it cannot emulate.
    case internalError(suberror: UInt32, data: [UInt64])
    case interruptWindowOpen
    /// A `KVM_EXIT_*` that this project does not know.
    case other(reason: UInt32)

    init(_ run: UnsafeMutablePointer<kvm_run>) {
        let reason = unsafe run.pointee.exit_reason
        switch Int32(truncatingIfNeeded: reason) {
        case KVM_EXIT_IO: self = unsafe .portIO(PortAccess(run))
        case KVM_EXIT_MMIO: self = unsafe .memoryIO(MemoryAccess(run))
        case KVM_EXIT_INTR: self = .interrupted
        case KVM_EXIT_HLT: self = .halted
        case KVM_EXIT_SHUTDOWN: self = .shutdown
        case KVM_EXIT_SYSTEM_EVENT: self = unsafe .systemEvent(type: run.pointee.system_event.type)
        case KVM_EXIT_DIRTY_RING_FULL: self = .dirtyRingFull
        case KVM_EXIT_FAIL_ENTRY:
            self = unsafe .failedEntry(hardwareReason: run.pointee.fail_entry.hardware_entry_failure_reason)
        case KVM_EXIT_INTERNAL_ERROR:
            let all = unsafe run.pointee.`internal`
            let data = unsafe withUnsafeBytes(of: all.data) { unsafe Array($0.bindMemory(to: UInt64.self)) }
            self = .internalError(suberror: all.suberror, data: Array(data.prefix(Int(min(all.ndata, 16)))))
        case KVM_EXIT_IRQ_WINDOW_OPEN: self = .interruptWindowOpen
        default: self = .other(reason: reason)
        }
    }
}

/// A guest's port access: `count` values of `size` bytes, all at one port.
@safe
public struct PortAccess: @unchecked Sendable {
    public let port: UInt16
    /// 1, 2 or 4.
    public let size: Int
    /// More than 1 for string instructions.
    public let count: Int
    public let isWrite: Bool
    /// In the vCPU's shared mapping.
    @unsafe private let data: UnsafeMutableRawPointer

    init(_ run: UnsafeMutablePointer<kvm_run>) {
        let io = unsafe run.pointee.io
        port = io.port
        size = Int(io.size)
        count = Int(io.count)
        isWrite = io.direction == UInt8(KVM_EXIT_IO_OUT)
        unsafe data = UnsafeMutableRawPointer(run) + Int(io.data_offset)
    }

    /// Value `index` as the guest wrote it, or where the answer to a read goes. Only until the vCPU runs again.
    public subscript(index: Int) -> UInt32 {
        get {
            precondition(index >= 0 && index < count)
            let place = unsafe data + index * size
            switch size {
            case 1: return unsafe UInt32(place.load(as: UInt8.self))
            case 2: return unsafe UInt32(place.loadUnaligned(as: UInt16.self))
            default: return unsafe place.loadUnaligned(as: UInt32.self)
            }
        }
        nonmutating set {
            precondition(index >= 0 && index < count)
            let place = unsafe data + index * size
            switch size {
            case 1: unsafe place.storeBytes(of: UInt8(truncatingIfNeeded: newValue), as: UInt8.self)
            case 2: unsafe place.storeBytes(of: UInt16(truncatingIfNeeded: newValue), as: UInt16.self)
            default: unsafe place.storeBytes(of: newValue, as: UInt32.self)
            }
        }
    }
}

/// A guest's access to an address that no memory slot covers.
@safe
public struct MemoryAccess: @unchecked Sendable {
    public let address: GuestAddress
    /// 1 to 8 bytes.
    public let length: Int
    public let isWrite: Bool
    @unsafe private let run: UnsafeMutablePointer<kvm_run>

    init(_ run: UnsafeMutablePointer<kvm_run>) {
        let access = unsafe run.pointee.mmio
        address = GuestAddress(access.phys_addr)
        length = Int(min(access.len, 8))
        isWrite = access.is_write != 0
        unsafe self.run = run
    }

    /// The value, little-endian. Only until the vCPU runs again.
    public var value: UInt64 {
        get {
            let data = unsafe run.pointee.mmio.data
            let all = unsafe withUnsafeBytes(of: data) { unsafe $0.loadUnaligned(as: UInt64.self) }
            return length == 8 ? all : all & (1 << UInt64(length * 8) - 1)
        }
        nonmutating set {
            unsafe withUnsafeMutableBytes(of: &run.pointee.mmio.data) {
                unsafe $0.storeBytes(of: newValue, as: UInt64.self)
            }
        }
    }
}
