/// The names of CPUID's feature bits, as Linux' /proc/cpuinfo and QEMU's command line spell them where they have a name.
/// Sources: Intel SDM volume 2 (CPUID), AMD APM volume 3 appendix E, the kernel's cpuid.rst for the KVM leaf.

/// The table of feature names.
public enum CPUFeatures {
    /// A register whose bits each stand for a feature.
    struct Word: Sendable {
        let leaf: UInt32
        let subleaf: UInt32
        let register: CPUIDRegister
        /// 32 names from bit 0 up; "-" where the bit has none.
        let names: [String]
        /// Bits that are not compared: they mirror the guest's own control registers, or the topology that the policy
        /// itself describes.
        let ignored: UInt32

        init(
            _ leaf: UInt32, _ subleaf: UInt32, _ register: CPUIDRegister, ignoring ignored: UInt32 = 0,
            _ names: String
        ) {
            self.leaf = leaf
            self.subleaf = subleaf
            self.register = register
            self.ignored = ignored
            let listed = names.split(whereSeparator: { $0 == " " || $0 == "\n" }).map(String.init)
            self.names = listed + Array(repeating: "-", count: max(0, 32 - listed.count))
        }

        func place(_ bit: Int) -> CPUIDBit { CPUIDBit(leaf: leaf, subleaf: subleaf, register: register, bit: bit) }

        /// The bit's name, or its place where it has none.
        func name(_ bit: Int) -> String {
            let name = names[bit]
            return name == "-" ? place(bit).description : name
        }
    }

    /// Every register that a destination must offer at least as much of as the VM was given.
    static let words: [Word] = [
        Word(
            0x1, 0, .ecx, ignoring: bits(27, 31),
            """
            sse3 pclmulqdq dtes64 monitor ds-cpl vmx smx est tm2 ssse3 cnxt-id sdbg fma cx16 xtpr pdcm
            - pcid dca sse4.1 sse4.2 x2apic movbe popcnt tsc-deadline aes xsave osxsave avx f16c rdrand hypervisor
            """),
        Word(
            0x1, 0, .edx, ignoring: bits(28),
            """
            fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov
            pat pse36 pn clflush - ds acpi mmx fxsr sse sse2 ss ht tm ia64 pbe
            """),
        Word(
            0x7, 0, .ebx,
            """
            fsgsbase tsc-adjust sgx bmi1 hle avx2 fdp-excptn-only smep bmi2 erms invpcid rtm pqm zero-fcs-fds mpx rdt-a
            avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt clwb intel-pt avx512pf avx512er avx512cd
            sha-ni avx512bw avx512vl
            """),
        // 17 to 21 are one number (the MPX address width), but a smaller one still is a lack.
        Word(
            0x7, 0, .ecx, ignoring: bits(4),
            """
            prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512-vbmi2 shstk gfni vaes vpclmulqdq avx512-vnni
            avx512-bitalg tme avx512-vpopcntdq - la57 - - - - - rdpid kl bus-lock-detect cldemote - movdiri movdir64b
            enqcmd sgx-lc pks
            """),
        Word(
            0x7, 0, .edx,
            """
            - sgx-keys avx512-4vnniw avx512-4fmaps fsrm uintr - - avx512-vp2intersect srbds-ctrl md-clear
            rtm-always-abort - tsx-force-abort serialize hybrid tsxldtrk - pconfig arch-lbr ibt - amx-bf16
            avx512-fp16 amx-tile amx-int8 spec-ctrl stibp flush-l1d arch-capabilities core-capability ssbd
            """),
        Word(
            0x7, 1, .eax,
            """
            sha512 sm3 sm4 rao-int avx-vnni avx512-bf16 lass cmpccxadd archperfmonext - fzrm fsrs fsrc - - -
            - fred lkgs wrmsrns nmi-src amx-fp16 hreset avx-ifma - - lam msrlist - - - movrs
            """),
        Word(0x7, 1, .ebx, "intel-ppin pbndkb"),
        Word(
            0x7, 1, .edx,
            """
            - - - - avx-vnni-int8 avx-ne-convert - - amx-complex - avx-vnni-int16 - - - prefetchiti user-msr
            - uiret-uif cet-sss avx10 - apx-f
            """),
        Word(0x7, 2, .edx, "psfd ipred-ctrl rrsba-ctrl ddpd-u bhi-ctrl mcdt-no"),
        Word(0xD, 0, .eax, stateComponents(0)),
        Word(0xD, 0, .edx, stateComponents(32)),
        Word(0xD, 1, .eax, "xsaveopt xsavec xgetbv1 xsaves xfd"),
        Word(0xD, 1, .ecx, stateComponents(0)),
        Word(0xD, 1, .edx, stateComponents(32)),
        Word(
            0x14, 0, .ebx,
            "pt-cr3-filter pt-psb-cyc pt-ip-filter pt-mtc pt-ptwrite pt-power-event pt-psb-pmi pt-event-trace"),
        Word(
            0x14, 0, .ecx,
            """
            pt-topa pt-topa-multi pt-single-range pt-transport - - - - - - - - - - - -
            - - - - - - - - - - - - - - - pt-lip
            """),
        // KVM's own leaf: what the guest may ask of its host.
        Word(
            0x4000_0001, 0, .eax,
            """
            kvmclock kvm-nop-io-delay kvm-mmu-op kvmclock2 kvm-async-pf kvm-steal-time kvm-pv-eoi kvm-pv-unhalt
            - kvm-pv-tlb-flush kvm-async-pf-vmexit kvm-pv-send-ipi kvm-poll-control kvm-pv-sched-yield
            kvm-async-pf-int kvm-msi-ext-dest-id kvm-hc-map-gpa-range kvm-migration-control - - - - - -
            kvmclock-stable
            """),
        Word(
            0x8000_0001, 0, .ecx, ignoring: bits(1),
            """
            lahf-lm cmp-legacy svm extapic cr8-legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt
            - lwp fma4 tce - nodeid-msr - tbm topoext perfctr-core perfctr-nb - bpext ptsc perfctr-llc mwaitx
            addr-mask-ext
            """),
        // AMD repeats much of leaf 1 here.
        Word(
            0x8000_0001, 0, .edx,
            """
            fpu vme de pse tsc msr pae mce cx8 apic - syscall mtrr pge mca cmov
            pat pse36 - mp nx - mmxext mmx fxsr fxsr-opt pdpe1gb rdtscp - lm 3dnowext 3dnow
            """),
        Word(0x8000_0007, 0, .ebx, "overflow-recov succor hwa scalable-mca"),
        Word(
            0x8000_0007, 0, .edx,
            "ts fid vid ttp htc stc 100mhzsteps hwpstate invtsc cpb eff-freq-ro proc-feedback proc-power-reporting"),
        Word(
            0x8000_0008, 0, .ebx,
            """
            clzero irperf xsaveerptr invlpgb rdpru - mbe - mcommit wbnoinvd - - amd-ibpb int-wbinvd amd-ibrs amd-stibp
            ibrs-always-on stibp-always-on ibrs-preferred ibrs-same-mode no-efer-lmsle invlpgb-nested - amd-ppin
            amd-ssbd virt-ssbd amd-ssb-no cppc amd-psfd btc-no ibpb-ret brs
            """),
        Word(
            0x8000_0021, 0, .eax,
            """
            no-nested-data-bp fsgs-non-serialising lfence-serialising smm-page-cfg-lock - - null-sel-clears-base
            upper-address-ignore auto-ibrs no-smm-ctl-msr amd-fsrs amd-fsrc - prefetch-ctl-msr - - - cpuid-user-dis
            epsf - - - - - eraps - - sbpb ibpb-brtype srso-no srso-user-kernel-no srso-msr-fix
            """),
    ]

    /// Names of the XSAVE state components `first` to `first + 31`: XCR0's and IA32_XSS's bits.
    private static func stateComponents(_ first: Int) -> String {
        (first..<first + 32).map { stateComponentName($0) }.joined(separator: " ")
    }

    /// "xsave-opmask" for component 5.
    static func stateComponentName(_ number: Int) -> String {
        let known = [
            "x87", "sse", "avx", "bndregs", "bndcsr", "opmask", "zmm-hi256", "hi16-zmm", "pt", "pkru", "pasid",
            "cet-u", "cet-s", "hdc", "uintr", "lbr", "hwp", "amx-tilecfg", "amx-tiledata", "apx",
        ]
        return "xsave-" + (known.indices.contains(number) ? known[number] : "component-\(number)")
    }

    private static let archCapabilityNames = """
        rdcl-no ibrs-all rsba skip-l1dfl-vmentry ssb-no mds-no pschange-mc-no tsx-ctrl taa-no mcu-control
        misc-package-ctls energy-filtering-ctl doitm sbdr-ssdp-no fbsdp-no psdp-no - fb-clear fb-clear-ctrl rrsba bhi-no
        xapic-disable-status - overclocking-status pbrsb-no gds-ctrl gds-no rfds-no rfds-clear
        """.split(whereSeparator: { $0 == " " || $0 == "\n" }).map(String.init)

    /// A bit of IA32_ARCH_CAPABILITIES: "mds-no" for bit 5.
    static func archCapabilityName(_ bit: Int) -> String {
        let names = archCapabilityNames
        return names.indices.contains(bit) && names[bit] != "-" ? names[bit] : "arch-capabilities[\(bit)]"
    }

    private static func bits(_ numbers: Int...) -> UInt32 { numbers.reduce(0) { $0 | 1 << UInt32($1) } }

    private static let placesByName: [String: [CPUIDBit]] = {
        var places: [String: [CPUIDBit]] = [:]
        for word in words {
            for (bit, name) in word.names.enumerated() where name != "-" {
                places[name, default: []].append(word.place(bit))
            }
        }
        return places
    }()

    /// Where a feature stands: two places for those that AMD repeats, none for an unknown name.
    public static func places(of name: String) -> [CPUIDBit] { placesByName[name] ?? [] }

    /// A bit's name ("avx512f"); where it has none, its place ("cpuid 7.0:ebx[22]").
    public static func name(of place: CPUIDBit) -> String {
        let word = words.first {
            $0.leaf == place.leaf && $0.subleaf == place.subleaf && $0.register == place.register
        }
        guard let word, (0..<32).contains(place.bit) else { return place.description }
        return word.name(place.bit)
    }

    /// The names of all features that a table offers, each once, in the table's order.
    public static func names(in table: CPUIDTable) -> [String] {
        var seen: Set<String> = []
        var names: [String] = []
        for word in words {
            let value = table.value(word.leaf, word.subleaf, word.register)
            for bit in 0..<32 where value & (1 << UInt32(bit)) != 0 && seen.insert(word.name(bit)).inserted {
                names.append(word.name(bit))
            }
        }
        return names
    }
}
