/// The capabilities of KVM that this project asks about.

import CKVM

/// A KVM capability, for `KVM_CHECK_EXTENSION` and `KVM_ENABLE_CAP`.
public struct Capability: RawRepresentable, Hashable, Sendable {
    public let rawValue: UInt32
    /// The name in the kernel's documents.
    public let name: String

    public init(rawValue: UInt32) { self.init(rawValue: rawValue, name: "KVM_CAP \(rawValue)") }

    init(rawValue: UInt32, name: String) {
        self.rawValue = rawValue
        self.name = name
    }

    private init(_ value: Int32, _ name: String) { self.init(rawValue: UInt32(value), name: name) }

    public static func == (a: Self, b: Self) -> Bool { a.rawValue == b.rawValue }
    public func hash(into hasher: inout Hasher) { hasher.combine(rawValue) }

    public static let irqchip = Capability(KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP")
    public static let userMemory = Capability(KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY")
    public static let maxVCPUs = Capability(KVM_CAP_MAX_VCPUS, "KVM_CAP_MAX_VCPUS")
    public static let memorySlotCount = Capability(KVM_CAP_NR_MEMSLOTS, "KVM_CAP_NR_MEMSLOTS")
    public static let pit2 = Capability(KVM_CAP_PIT2, "KVM_CAP_PIT2")
    public static let pitState2 = Capability(KVM_CAP_PIT_STATE2, "KVM_CAP_PIT_STATE2")
    public static let irqfd = Capability(KVM_CAP_IRQFD, "KVM_CAP_IRQFD")
    public static let ioeventfd = Capability(KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD")
    public static let adjustClock = Capability(KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK")
    public static let vcpuEvents = Capability(KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS")
    public static let debugRegisters = Capability(KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS")
    public static let xsave = Capability(KVM_CAP_XSAVE, "KVM_CAP_XSAVE")
    public static let xsave2 = Capability(KVM_CAP_XSAVE2, "KVM_CAP_XSAVE2")
    public static let xcrs = Capability(KVM_CAP_XCRS, "KVM_CAP_XCRS")
    public static let sregs2 = Capability(KVM_CAP_SREGS2, "KVM_CAP_SREGS2")
    public static let mpState = Capability(KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE")
    public static let tscControl = Capability(KVM_CAP_TSC_CONTROL, "KVM_CAP_TSC_CONTROL")
    public static let getTSCKHz = Capability(KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ")
    public static let tscDeadlineTimer = Capability(KVM_CAP_TSC_DEADLINE_TIMER, "KVM_CAP_TSC_DEADLINE_TIMER")
    public static let kvmclockControl = Capability(KVM_CAP_KVMCLOCK_CTRL, "KVM_CAP_KVMCLOCK_CTRL")
    public static let signalMSI = Capability(KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI")
    public static let immediateExit = Capability(KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT")
    public static let readOnlyMemory = Capability(KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM")
    public static let syncMMU = Capability(KVM_CAP_SYNC_MMU, "KVM_CAP_SYNC_MMU")
    public static let setIdentityMapAddress = Capability(KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR")
    public static let disableExits = Capability(KVM_CAP_X86_DISABLE_EXITS, "KVM_CAP_X86_DISABLE_EXITS")
    public static let manualDirtyLogProtect = Capability(
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2")
    public static let dirtyRing = Capability(KVM_CAP_DIRTY_LOG_RING, "KVM_CAP_DIRTY_LOG_RING")
    public static let dirtyRingAcquireRelease = Capability(
        KVM_CAP_DIRTY_LOG_RING_ACQ_REL, "KVM_CAP_DIRTY_LOG_RING_ACQ_REL")
    public static let dirtyRingWithBitmap = Capability(
        KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, "KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP")
    public static let nestedState = Capability(KVM_CAP_NESTED_STATE, "KVM_CAP_NESTED_STATE")
    public static let vcpuAttributes = Capability(KVM_CAP_VCPU_ATTRIBUTES, "KVM_CAP_VCPU_ATTRIBUTES")
    public static let guestMemfd = Capability(KVM_CAP_GUEST_MEMFD, "KVM_CAP_GUEST_MEMFD")
    public static let preFaultMemory = Capability(KVM_CAP_PRE_FAULT_MEMORY, "KVM_CAP_PRE_FAULT_MEMORY")
}
