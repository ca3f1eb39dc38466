/// CPU models: what they are read from, what they leave of a host, and that they make two different hosts alike.

import CKVM
import KVM
import Testing
import Units
import VMState

/// A host with the features of x86-64-v4 and more, or fewer.
private func makeHost(
    vendor: (UInt32, UInt32, UInt32) = (0x756E_6547, 0x6C65_746E, 0x4965_6E69), without: Set<String> = [],
    addressBits: UInt32 = 46, tscKHz: UInt32 = 2_600_000, msrs: Set<UInt32> = [0x10, 0x174, 0xC000_0081]
) -> HostCPU {
    var entries = [
        CPUIDEntry(leaf: 0, eax: 0x14, ebx: vendor.0, ecx: vendor.1, edx: vendor.2),
        CPUIDEntry(leaf: 1, eax: 0x50654, ecx: 0xFFFF_FFFF, edx: 0xFFFF_FFFF),
        CPUIDEntry(leaf: 7, hasSubleaves: true, eax: 0, ebx: 0xFFFF_FFFF, ecx: 0x4, edx: 1 << 29),
        CPUIDEntry(leaf: 0xD, hasSubleaves: true, eax: 0xE7, ebx: 2696, ecx: 2696),
        CPUIDEntry(leaf: 0xD, subleaf: 1, hasSubleaves: true, eax: 0xF),
        CPUIDEntry(leaf: 0xD, subleaf: 2, hasSubleaves: true, eax: 256, ebx: 576),
        CPUIDEntry(leaf: 0xD, subleaf: 5, hasSubleaves: true, eax: 64, ebx: 1088),
        CPUIDEntry(leaf: 0xD, subleaf: 6, hasSubleaves: true, eax: 512, ebx: 1152),
        CPUIDEntry(leaf: 0xD, subleaf: 7, hasSubleaves: true, eax: 1024, ebx: 1664),
        CPUIDEntry(leaf: 0x4000_0001, eax: 0x0100_0029),
        CPUIDEntry(leaf: 0x8000_0001, ecx: 0x21, edx: 0x2810_0800),
        CPUIDEntry(leaf: 0x8000_0008, eax: 0x3000 | addressBits, ebx: 0),
    ]
    for name in without {
        for place in CPUFeatures.places(of: name) {
            for index in entries.indices
            where entries[index].leaf == place.leaf && entries[index].subleaf == place.subleaf {
                entries[index][place.register] &= ~(1 << UInt32(place.bit))
            }
        }
    }
    return HostCPU(
        cpuid: CPUIDTable(entries), msrs: msrs, tscKHz: tscKHz, canScaleTSC: false, xsaveByteCount: 4096,
        archCapabilities: 0x29)
}

struct CPUModelTests {
    @Test func namesAreRead() throws {
        #expect(try CPUModel(parsing: "host") == .host)
        #expect(try CPUModel(parsing: "x86-64-v2") == CPUModel(.level(2)))
        #expect(
            try CPUModel(parsing: "x86-64-v3,+aes,-avx2") == CPUModel(.level(3), adding: ["aes"], removing: ["avx2"]))
        #expect(try CPUModel(parsing: "x86-64-v3,+aes").description == "x86-64-v3,+aes")
    }

    @Test(arguments: ["", "pentium", "x86-64-v5", "host,", "host,aes", "host,+", "host,+nonsense", "x86-64-v2,,+aes"])
    func otherNamesAreRefused(_ text: String) {
        #expect(throws: StateError.self) { try CPUModel(parsing: text) }
    }

    @Test func theHostsOwnIsLeftAlone() throws {
        #expect(try makeHost().limited(to: .host) == makeHost())
    }

    /// What a level lacks is gone: its bits, its state and the room for that.
    @Test func levelTwoHasNoAVX() throws {
        let table = try makeHost().limited(to: CPUModel(.level(2))).cpuid
        for feature in ["avx", "avx2", "avx512f", "xsave", "aes", "fsgsbase", "arch-capabilities", "rdtscp"] {
            #expect(!table.contains(feature: feature), "\(feature)")
        }
        for feature in ["sse4.2", "cx16", "popcnt", "lm", "nx", "kvmclock", "x2apic", "hypervisor"] {
            #expect(table.contains(feature: feature), "\(feature)")
        }
        #expect(table[0xD] == nil)
        #expect(table[0x8000_0008]?.eax == 0x3028)
    }

    @Test func levelThreeHasRoomForAVXOnly() throws {
        let table = try makeHost().limited(to: CPUModel(.level(3))).cpuid
        #expect(table.contains(feature: "avx2"))
        #expect(table[0xD, 0]?.eax == 7)
        #expect(table[0xD, 0]?.ecx == 832)
        #expect(table[0xD, 2] != nil)
        #expect(table[0xD, 5] == nil)
        #expect(try makeHost().limited(to: CPUModel(.level(4))).cpuid[0xD, 0]?.ecx == 2688)
    }

    @Test func whatAHostLacksIsNamed() {
        #expect {
            try makeHost(without: ["avx2", "movbe"]).limited(to: CPUModel(.level(3)))
        } throws: {
            "\($0)" == "this host's CPU is no x86-64-v3: it lacks avx2, movbe"
        }
        #expect(throws: StateError.self) {
            try makeHost(without: ["aes"]).limited(to: CPUModel(.level(2), adding: ["aes"]))
        }
    }

    @Test func featuresComeAndGo() throws {
        let model = CPUModel(.level(2), adding: ["aes"], removing: ["sse4.2"])
        let table = try makeHost().limited(to: model).cpuid
        #expect(table.contains(feature: "aes"))
        #expect(!table.contains(feature: "sse4.2"))
        #expect(try !makeHost().limited(to: CPUModel(.host, removing: ["avx512f"])).cpuid.contains(feature: "avx512f"))
    }

    /// The purpose of it all: a VM of the richer host goes to the poorer one, by level and by baseline, and not without.
    @Test func aModelMakesTwoHostsAlike() throws {
        let rich = makeHost()
        let poor = makeHost(
            without: ["avx512f", "xsave-opmask", "xsave-zmm-hi256", "xsave-hi16-zmm", "rdtscp"], addressBits: 42,
            msrs: [0x10, 0xC000_0081])
        #expect(!CPUPolicy(host: rich, vcpuCount: 2).check(on: poor).isEmpty)
        let common = try CPUBaseline(rich).common(with: CPUBaseline(poor))
        #expect(try common == CPUBaseline(poor).common(with: CPUBaseline(rich)))
        #expect(!common.features.contains("avx512f"))
        #expect(common.features.contains("avx2"))
        for model in [CPUModel(.baseline(common)), CPUModel(.level(3))] {
            for (from, to) in [(rich, poor), (poor, rich)] {
                var from = from
                // The MSR that the poorer lacks is not behind any feature: only a baseline knows of it.
                if case .level = model.base { from.msrs.remove(0x174) }
                let policy = CPUPolicy(host: try from.limited(to: model), vcpuCount: 2)
                #expect(policy.check(on: to).map(\.description) == [], "\(model)")
            }
        }
    }

    @Test func hostsWithNothingInCommonAreRefused() {
        let intel = CPUBaseline(makeHost())
        let amd = CPUBaseline(makeHost(vendor: (0x6874_7541, 0x444D_4163, 0x6974_6E65)))
        #expect(throws: StateError.self) { try intel.common(with: amd) }
        #expect(throws: StateError.self) { try intel.common(with: CPUBaseline(makeHost(tscKHz: 2_400_000))) }
    }
}
