/// Names of model-specific registers, and the feature without which a guest cannot use one.

/// The table of MSR names.
public enum MSRNames {
    /// What makes an MSR usable for a guest.
    enum Governor: Sendable, Equatable {
        /// Every guest may use it; so may a guest of an MSR that this table does not know.
        case none
        /// Any of these features of `CPUFeatures`.
        case feature([String])
        /// The performance counters, which this project never offers (see `CPUPolicy`).
        case performanceCounters
        /// Hyper-V's leaves, which this project never offers.
        case hyperV
    }

    struct Entry: Sendable {
        let name: String
        let governor: Governor
    }

    public static let tsc: UInt32 = 0x10
    public static let tscAdjust: UInt32 = 0x3B
    public static let tscDeadline: UInt32 = 0x6E0
    public static let archCapabilities: UInt32 = 0x10A

    /// "IA32_TSC_DEADLINE (0x6e0)"; "MSR 0x1234" where the table has no name.
    public static func describe(_ index: UInt32) -> String {
        let number = "0x" + String(index, radix: 16)
        return entry(index).map { "\($0.name) (\(number))" } ?? "MSR \(number)"
    }

    /// Whether a guest with this CPUID table can have put something into the MSR.
    static func isUsable(_ index: UInt32, by table: CPUIDTable) -> Bool {
        switch entry(index)?.governor ?? .none {
        case .none: true
        case .feature(let names): names.contains { table.contains(feature: $0) }
        case .performanceCounters: table.value(0xA, 0, .eax) & 0xFF != 0 || table.contains(feature: "perfctr-core")
        case .hyperV: table.value(0x4000_0000, 0, .ebx) == 0x7263_694D  // "Micr" of "Microsoft Hv"
        }
    }

    private static func entry(_ index: UInt32) -> Entry? { named[index] ?? ranged(index) }

    /// Blocks of like MSRs.
    private static func ranged(_ index: UInt32) -> Entry? {
        switch index {
        case 0xC1...0xC8: Entry(name: "IA32_PMC\(index - 0xC1)", governor: .performanceCounters)
        case 0x186...0x18D: Entry(name: "IA32_PERFEVTSEL\(index - 0x186)", governor: .performanceCounters)
        case 0x309...0x30C: Entry(name: "IA32_FIXED_CTR\(index - 0x309)", governor: .performanceCounters)
        case 0x4C1...0x4C8: Entry(name: "IA32_A_PMC\(index - 0x4C1)", governor: .performanceCounters)
        case 0xC001_0000...0xC001_0003:
            Entry(name: "AMD_PERFEVTSEL\(index - 0xC001_0000)", governor: .performanceCounters)
        case 0xC001_0004...0xC001_0007:
            Entry(name: "AMD_PERFCTR\(index - 0xC001_0004)", governor: .performanceCounters)
        case 0xC001_0200...0xC001_020B:
            Entry(
                name: (index & 1 == 0 ? "AMD_F15H_PERFEVTSEL" : "AMD_F15H_PERFCTR") + "\((index - 0xC001_0200) / 2)",
                governor: .performanceCounters)
        case 0x480...0x491: Entry(name: "IA32_VMX_\(index - 0x480)", governor: .feature(["vmx"]))
        case 0x580...0x587: Entry(name: "IA32_RTIT_ADDR\(index - 0x580)", governor: .feature(["intel-pt"]))
        case 0x4000_0000...0x4000_01FF:
            Entry(name: "HV_X64_MSR_" + String(index, radix: 16), governor: .hyperV)
        case 0x200...0x20F:
            Entry(name: "IA32_MTRR_PHYS\(index & 1 == 0 ? "BASE" : "MASK")\((index - 0x200) / 2)", governor: .none)
        case 0x400...0x47F: Entry(name: "IA32_MC\((index - 0x400) / 4)_\(bank[Int(index & 3)])", governor: .none)
        case 0x280...0x29F: Entry(name: "IA32_MC\(index - 0x280)_CTL2", governor: .none)
        default: nil
        }
    }

    private static let bank = ["CTL", "STATUS", "ADDR", "MISC"]

    private static func one(_ name: String, _ features: String...) -> Entry {
        Entry(name: name, governor: features.isEmpty ? .none : .feature(features))
    }

    private static func counter(_ name: String) -> Entry { Entry(name: name, governor: .performanceCounters) }

    private static let named: [UInt32: Entry] = [
        0x0: one("P5_MC_ADDR"),
        0x1: one("P5_MC_TYPE"),
        0x10: one("IA32_TSC"),
        0x11: one("KVM_WALL_CLOCK", "kvmclock"),
        0x12: one("KVM_SYSTEM_TIME", "kvmclock"),
        0x17: one("IA32_PLATFORM_ID"),
        0x1B: one("IA32_APIC_BASE"),
        0x34: one("SMI_COUNT"),
        0x3A: one("IA32_FEATURE_CONTROL", "vmx"),
        0x3B: one("IA32_TSC_ADJUST", "tsc-adjust"),
        0x48: one("IA32_SPEC_CTRL", "spec-ctrl", "stibp", "ssbd", "amd-ibrs", "amd-stibp", "amd-ssbd"),
        0x49: one("IA32_PRED_CMD"),
        0x8B: one("IA32_UCODE_REV"),
        0x8C: one("IA32_SGXLEPUBKEYHASH0", "sgx-lc"),
        0x8D: one("IA32_SGXLEPUBKEYHASH1", "sgx-lc"),
        0x8E: one("IA32_SGXLEPUBKEYHASH2", "sgx-lc"),
        0x8F: one("IA32_SGXLEPUBKEYHASH3", "sgx-lc"),
        0x9E: one("IA32_SMBASE"),
        0xCE: one("PLATFORM_INFO"),
        0xE1: one("IA32_UMWAIT_CONTROL", "waitpkg"),
        0xFE: one("IA32_MTRRCAP"),
        0x10A: one("IA32_ARCH_CAPABILITIES", "arch-capabilities"),
        0x10B: one("IA32_FLUSH_CMD", "flush-l1d"),
        0x122: one("IA32_TSX_CTRL", "arch-capabilities"),
        0x140: one("MISC_FEATURES_ENABLES"),
        0x174: one("IA32_SYSENTER_CS"),
        0x175: one("IA32_SYSENTER_ESP"),
        0x176: one("IA32_SYSENTER_EIP"),
        0x179: one("IA32_MCG_CAP"),
        0x17A: one("IA32_MCG_STATUS"),
        0x17B: one("IA32_MCG_CTL"),
        0x198: one("IA32_PERF_STATUS"),
        0x1A0: one("IA32_MISC_ENABLE"),
        0x1C4: one("IA32_XFD", "xfd"),
        0x1C5: one("IA32_XFD_ERR", "xfd"),
        0x1D9: one("IA32_DEBUGCTL"),
        0x1DB: one("LAST_BRANCH_FROM_IP"),
        0x1DC: one("LAST_BRANCH_TO_IP"),
        0x1DD: one("LAST_INT_FROM_IP"),
        0x1DE: one("LAST_INT_TO_IP"),
        0x1FC: one("POWER_CTL"),
        0x250: one("IA32_MTRR_FIX64K_00000"),
        0x258: one("IA32_MTRR_FIX16K_80000"),
        0x259: one("IA32_MTRR_FIX16K_A0000"),
        0x268: one("IA32_MTRR_FIX4K_C0000"),
        0x269: one("IA32_MTRR_FIX4K_C8000"),
        0x26A: one("IA32_MTRR_FIX4K_D0000"),
        0x26B: one("IA32_MTRR_FIX4K_D8000"),
        0x26C: one("IA32_MTRR_FIX4K_E0000"),
        0x26D: one("IA32_MTRR_FIX4K_E8000"),
        0x26E: one("IA32_MTRR_FIX4K_F0000"),
        0x26F: one("IA32_MTRR_FIX4K_F8000"),
        0x277: one("IA32_PAT"),
        0x2FF: one("IA32_MTRR_DEF_TYPE"),
        0x345: counter("IA32_PERF_CAPABILITIES"),
        0x38D: counter("IA32_FIXED_CTR_CTRL"),
        0x38E: counter("IA32_PERF_GLOBAL_STATUS"),
        0x38F: counter("IA32_PERF_GLOBAL_CTRL"),
        0x390: counter("IA32_PERF_GLOBAL_OVF_CTRL"),
        0x3F1: counter("IA32_PEBS_ENABLE"),
        0x3F2: counter("MSR_PEBS_DATA_CFG"),
        0x4D0: one("IA32_MCG_EXT_CTL"),
        0x560: one("IA32_RTIT_OUTPUT_BASE", "intel-pt"),
        0x561: one("IA32_RTIT_OUTPUT_MASK", "intel-pt"),
        0x570: one("IA32_RTIT_CTL", "intel-pt"),
        0x571: one("IA32_RTIT_STATUS", "intel-pt"),
        0x572: one("IA32_RTIT_CR3_MATCH", "intel-pt"),
        0x600: counter("IA32_DS_AREA"),
        0x6A0: one("IA32_U_CET", "shstk", "ibt"),
        0x6A2: one("IA32_S_CET", "shstk", "ibt"),
        0x6A4: one("IA32_PL0_SSP", "shstk"),
        0x6A5: one("IA32_PL1_SSP", "shstk"),
        0x6A6: one("IA32_PL2_SSP", "shstk"),
        0x6A7: one("IA32_PL3_SSP", "shstk"),
        0x6A8: one("IA32_INT_SSP_TAB", "shstk"),
        0x6E0: one("IA32_TSC_DEADLINE", "tsc-deadline"),
        0xD90: one("IA32_BNDCFGS", "mpx"),
        0xDA0: one("IA32_XSS", "xsaves"),
        0x4B56_4D00: one("KVM_WALL_CLOCK_NEW", "kvmclock2"),
        0x4B56_4D01: one("KVM_SYSTEM_TIME_NEW", "kvmclock2"),
        0x4B56_4D02: one("KVM_ASYNC_PF_EN", "kvm-async-pf"),
        0x4B56_4D03: one("KVM_STEAL_TIME", "kvm-steal-time"),
        0x4B56_4D04: one("KVM_PV_EOI_EN", "kvm-pv-eoi"),
        0x4B56_4D05: one("KVM_POLL_CONTROL", "kvm-poll-control"),
        0x4B56_4D06: one("KVM_ASYNC_PF_INT", "kvm-async-pf-int"),
        0x4B56_4D07: one("KVM_ASYNC_PF_ACK", "kvm-async-pf-int"),
        0x4B56_4D08: one("KVM_MIGRATION_CONTROL", "kvm-migration-control"),
        0xC000_0080: one("EFER"),
        0xC000_0081: one("STAR"),
        0xC000_0082: one("LSTAR"),
        0xC000_0083: one("CSTAR"),
        0xC000_0084: one("SYSCALL_MASK"),
        0xC000_0100: one("FS_BASE"),
        0xC000_0101: one("GS_BASE"),
        0xC000_0102: one("KERNEL_GS_BASE"),
        0xC000_0103: one("TSC_AUX", "rdtscp", "rdpid"),
        0xC000_0104: one("AMD64_TSC_RATIO", "svm"),
        0xC000_0300: counter("AMD_PERF_GLOBAL_STATUS"),
        0xC000_0301: counter("AMD_PERF_GLOBAL_CTL"),
        0xC000_0302: counter("AMD_PERF_GLOBAL_STATUS_CLR"),
        0xC000_0303: counter("AMD_PERF_GLOBAL_STATUS_SET"),
        0xC001_0010: one("SYSCFG"),
        0xC001_0015: one("HWCR"),
        0xC001_0058: one("AMD_MMIO_CONF_BASE"),
        0xC001_0064: one("AMD_PSTATE_DEF_BASE"),
        0xC001_0114: one("VM_CR", "svm"),
        0xC001_0117: one("VM_HSAVE_PA", "svm"),
        0xC001_011F: one("AMD_VIRT_SPEC_CTRL", "virt-ssbd"),
        0xC001_0140: one("AMD_OSVW_ID_LENGTH", "osvw"),
        0xC001_0141: one("AMD_OSVW_STATUS", "osvw"),
        0xC001_1029: one("AMD_DE_CFG"),
        0xC001_102A: one("AMD_BU_CFG2"),
    ]
}
