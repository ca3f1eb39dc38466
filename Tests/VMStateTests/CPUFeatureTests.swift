/// The table of feature names.

import KVM
import Testing
import VMState

struct CPUFeatureTests {
    /// Bits whose place is well known, from the vendors' manuals and the kernel's cpufeatures.h.
    @Test(
        arguments: [
            ("sse3", 0x1, 0, CPUIDRegister.ecx, 0), ("x2apic", 0x1, 0, .ecx, 21), ("tsc-deadline", 0x1, 0, .ecx, 24),
            ("rdrand", 0x1, 0, .ecx, 30), ("fpu", 0x1, 0, .edx, 0), ("sse2", 0x1, 0, .edx, 26),
            ("pbe", 0x1, 0, .edx, 31),
            ("fsgsbase", 0x7, 0, .ebx, 0), ("avx2", 0x7, 0, .ebx, 5), ("avx512f", 0x7, 0, .ebx, 16),
            ("avx512vl", 0x7, 0, .ebx, 31), ("umip", 0x7, 0, .ecx, 2), ("gfni", 0x7, 0, .ecx, 8),
            ("avx512-vpopcntdq", 0x7, 0, .ecx, 14), ("la57", 0x7, 0, .ecx, 16), ("rdpid", 0x7, 0, .ecx, 22),
            ("pks", 0x7, 0, .ecx, 31), ("fsrm", 0x7, 0, .edx, 4), ("serialize", 0x7, 0, .edx, 14),
            ("amx-tile", 0x7, 0, .edx, 24), ("arch-capabilities", 0x7, 0, .edx, 29), ("ssbd", 0x7, 0, .edx, 31),
            ("avx-vnni", 0x7, 1, .eax, 4), ("avx512-bf16", 0x7, 1, .eax, 5), ("lam", 0x7, 1, .eax, 26),
            ("prefetchiti", 0x7, 1, .edx, 14), ("apx-f", 0x7, 1, .edx, 21), ("mcdt-no", 0x7, 2, .edx, 5),
            ("xsaves", 0xD, 1, .eax, 3), ("pt-lip", 0x14, 0, .ecx, 31),
            ("kvmclock", 0x4000_0001, 0, .eax, 0), ("kvm-steal-time", 0x4000_0001, 0, .eax, 5),
            ("kvm-pv-send-ipi", 0x4000_0001, 0, .eax, 11), ("kvmclock-stable", 0x4000_0001, 0, .eax, 24),
            ("svm", 0x8000_0001, 0, .ecx, 2), ("topoext", 0x8000_0001, 0, .ecx, 22),
            ("perfctr-core", 0x8000_0001, 0, .ecx, 23), ("mwaitx", 0x8000_0001, 0, .ecx, 29),
            ("syscall", 0x8000_0001, 0, .edx, 11), ("nx", 0x8000_0001, 0, .edx, 20),
            ("rdtscp", 0x8000_0001, 0, .edx, 27),
            ("lm", 0x8000_0001, 0, .edx, 29), ("3dnow", 0x8000_0001, 0, .edx, 31), ("invtsc", 0x8000_0007, 0, .edx, 8),
            ("clzero", 0x8000_0008, 0, .ebx, 0), ("wbnoinvd", 0x8000_0008, 0, .ebx, 9),
            ("amd-ibpb", 0x8000_0008, 0, .ebx, 12), ("amd-ssbd", 0x8000_0008, 0, .ebx, 24),
            ("amd-psfd", 0x8000_0008, 0, .ebx, 28), ("auto-ibrs", 0x8000_0021, 0, .eax, 8),
            ("srso-no", 0x8000_0021, 0, .eax, 29),
        ] as [(String, UInt32, UInt32, CPUIDRegister, Int)])
    func places(name: String, leaf: UInt32, subleaf: UInt32, register: CPUIDRegister, bit: Int) {
        let place = CPUIDBit(leaf: leaf, subleaf: subleaf, register: register, bit: bit)
        #expect(CPUFeatures.places(of: name).contains(place))
        #expect(CPUFeatures.name(of: place) == name)
    }

    @Test func stateComponentsHaveNames() {
        #expect(CPUFeatures.name(of: CPUIDBit(leaf: 0xD, register: .eax, bit: 5)) == "xsave-opmask")
        #expect(CPUFeatures.name(of: CPUIDBit(leaf: 0xD, register: .eax, bit: 18)) == "xsave-amx-tiledata")
        #expect(CPUFeatures.name(of: CPUIDBit(leaf: 0xD, register: .edx, bit: 3)) == "xsave-component-35")
    }

    @Test func unnamedBitsSayWhereTheyAre() {
        #expect(CPUFeatures.name(of: CPUIDBit(leaf: 1, register: .ecx, bit: 16)) == "cpuid 1.0:ecx[16]")
        #expect(CPUFeatures.name(of: CPUIDBit(leaf: 0x99, register: .eax, bit: 40)) == "cpuid 99.0:eax[40]")
        #expect(CPUFeatures.places(of: "no such feature").isEmpty)
    }

    /// A register has 32 bits, so no list of names is longer: names beyond would be given to no bit.
    @Test func everyNameHasAPlace() {
        let everything = CPUIDTable(
            [1, 7, 0xD, 0x14, 0x4000_0001, 0x8000_0001, 0x8000_0007, 0x8000_0008, 0x8000_0021].flatMap { leaf in
                (0..<3).map { subleaf in
                    CPUIDEntry(
                        leaf: leaf, subleaf: subleaf, hasSubleaves: true, eax: .max, ebx: .max, ecx: .max, edx: .max)
                }
            })
        for name in CPUFeatures.names(in: everything) {
            for place in CPUFeatures.places(of: name) { #expect((0..<32).contains(place.bit), "\(name)") }
        }
    }
}
