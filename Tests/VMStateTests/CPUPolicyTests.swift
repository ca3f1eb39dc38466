/// Policies: their bytes, and what a host lacks of them.

import CKVM
import KVM
import Testing
import Units
import VMState

/// A host with AVX-512, and one that lacks much of it.
private func makeHost(_ change: (inout HostCPU, inout [CPUIDEntry]) -> Void = { _, _ in }) -> HostCPU {
    var entries = [
        CPUIDEntry(leaf: 0, eax: 0x14, ebx: 0x756E_6547, ecx: 0x6C65_746E, edx: 0x4965_6E69),  // GenuineIntel
        CPUIDEntry(leaf: 1, eax: 0x50654, ebx: 0, ecx: 0x8120_0001 | 1 << 5, edx: 0x0600_0001),
        CPUIDEntry(leaf: 4, subleaf: 0, hasSubleaves: true, eax: 0x1C00_4121),
        CPUIDEntry(leaf: 7, hasSubleaves: true, eax: 1, ebx: 0x0001_0021, ecx: 0x4, edx: 1 << 29),
        CPUIDEntry(leaf: 7, subleaf: 1, hasSubleaves: true, eax: 0x10),
        CPUIDEntry(leaf: 0xA, eax: 0x0730_0402),
        CPUIDEntry(leaf: 0xB, hasSubleaves: true, eax: 1, ebx: 2, ecx: 0x100, edx: 77),
        CPUIDEntry(leaf: 0xD, hasSubleaves: true, eax: 0xE7, ebx: 2696, ecx: 2696),
        CPUIDEntry(leaf: 0xD, subleaf: 1, hasSubleaves: true, eax: 0xF),
        CPUIDEntry(leaf: 0xD, subleaf: 2, hasSubleaves: true, eax: 256, ebx: 576),
        CPUIDEntry(leaf: 0xD, subleaf: 5, hasSubleaves: true, eax: 64, ebx: 1088),
        CPUIDEntry(leaf: 0x4000_0000, eax: 0x4000_0001, ebx: 0x4B4D_564B, ecx: 0x564B_4D56, edx: 0x4D),
        CPUIDEntry(leaf: 0x4000_0001, eax: 0x0100_0029),
        CPUIDEntry(leaf: 0x8000_0001, ecx: 0x21, edx: 0x2810_0800),
        CPUIDEntry(leaf: 0x8000_0007, edx: 0x100),
        CPUIDEntry(leaf: 0x8000_0008, eax: 0x302E, ebx: 0),
    ]
    var host = HostCPU(
        cpuid: CPUIDTable([]), msrs: [0x10, 0xC1, 0x174, 0x6E0, 0xDA0, 0x4B56_4D01, 0xC000_0081],
        tscKHz: 2_600_000, canScaleTSC: false, xsaveByteCount: 4096, archCapabilities: 0x0400_0029)
    change(&host, &entries)
    host.cpuid = CPUIDTable(entries)
    return host
}

/// A host that differs from the sample in one register.
private func makeHost(_ leaf: UInt32, _ subleaf: UInt32, _ register: CPUIDRegister, _ value: UInt32) -> HostCPU {
    makeHost { _, entries in
        for index in entries.indices where entries[index].leaf == leaf && entries[index].subleaf == subleaf {
            entries[index][register] = value
        }
    }
}

struct CPUPolicyTests {
    private let policy = CPUPolicy(host: makeHost(), vcpuCount: 2)

    private func mismatches(_ host: HostCPU) -> [String] { policy.check(on: host).map(\.description) }

    @Test func ownHostFits() { #expect(mismatches(makeHost()) == []) }

    /// A host that has more is as good.
    @Test func richerHostFits() {
        #expect(mismatches(makeHost(7, 0, .ebx, 0x8001_0021)) == [])
        #expect(mismatches(makeHost(0x8000_0008, 0, .eax, 0x3934)) == [])
    }

    @Test func missingFeaturesAreNamed() {
        #expect(mismatches(makeHost(7, 0, .ebx, 0)) == ["fsgsbase", "avx2", "avx512f"])
        #expect(mismatches(makeHost(7, 0, .ecx, 0)) == ["umip"])
        #expect(mismatches(makeHost(7, 1, .eax, 0)) == ["avx-vnni"])
        #expect(mismatches(makeHost(1, 0, .ecx, 0x8020_0001)) == ["tsc-deadline"])
        #expect(mismatches(makeHost(0xD, 1, .eax, 7)) == ["xsaves"])
        #expect(mismatches(makeHost(0x4000_0001, 0, .eax, 9)) == ["kvm-steal-time", "kvmclock-stable"])
        #expect(mismatches(makeHost(0x8000_0001, 0, .edx, 0x2010_0800)) == ["rdtscp"])
        #expect(mismatches(makeHost(0x8000_0007, 0, .edx, 0)) == ["invtsc"])
    }

    @Test func sizesAreNamed() {
        #expect(mismatches(makeHost(0xD, 0, .ecx, 832)) == ["xsave size 2696 > 832"])
        #expect(
            mismatches(makeHost(0x8000_0008, 0, .eax, 0x3027)) == ["physical address bits 46 > 39"])
        #expect(
            mismatches(makeHost(0xD, 5, .ebx, 832))
                == ["xsave-opmask layout 64 bytes at 1088, here 64 bytes at 832"])
    }

    /// What the guest believes its CPU to be immune against.
    @Test func missingImmunitiesAreNamed() {
        #expect(
            mismatches(makeHost { host, _ in host.archCapabilities = 0x1 }) == [
                "skip-l1dfl-vmentry", "mds-no", "gds-no",
            ])
        #expect(mismatches(makeHost { host, _ in host.archCapabilities = .max }) == [])
    }

    /// A host without AVX-512 lacks its state components, their room and the feature.
    @Test func hostWithoutAVX512() {
        let host = makeHost { _, entries in
            for index in entries.indices {
                if entries[index].leaf == 7, entries[index].subleaf == 0 { entries[index].ebx = 0x21 }
                if entries[index].leaf == 0xD, entries[index].subleaf == 0 {
                    (entries[index].eax, entries[index].ecx) = (7, 832)
                }
            }
            entries.removeAll { $0.leaf == 0xD && $0.subleaf == 5 }
        }
        #expect(
            mismatches(host)
                == ["avx512f", "xsave-opmask", "xsave-zmm-hi256", "xsave-hi16-zmm", "xsave size 2696 > 832"])
    }

    @Test func otherVendorIsRefused() {
        let host = makeHost { _, entries in
            (entries[0].ebx, entries[0].ecx, entries[0].edx) = (0x6874_7541, 0x444D_4163, 0x6974_6E65)
        }
        #expect(mismatches(host) == ["cpu vendor GenuineIntel, here AuthenticAMD"])
    }

    @Test func frequency() {
        let slower = makeHost { host, _ in host.tscKHz = 2_400_000 }
        #expect(
            mismatches(slower)
                == ["tsc frequency 2600000 kHz, here 2400000 kHz and not to be scaled"])
        #expect(mismatches(makeHost { host, _ in (host.tscKHz, host.canScaleTSC) = (2_400_000, true) }) == [])
        // Two equal CPUs whose kernels measured them a little differently.
        #expect(mismatches(makeHost { host, _ in host.tscKHz = 2_600_100 }) == [])
    }

    /// MSRs that the guest can use are named; those of features that it does not have do not matter.
    @Test func missingMSRsAreNamed() {
        let host = makeHost { host, _ in host.msrs = [0x10, 0x174, 0xC000_0081] }
        #expect(
            mismatches(host)
                == ["IA32_TSC_DEADLINE (0x6e0)", "IA32_XSS (0xda0)", "KVM_SYSTEM_TIME_NEW (0x4b564d01)"])
        // The host also lacks 0xC1, a performance counter; the policy offers none.
    }

    @Test func whatCannotBeMovedIsNotOffered() {
        let table = policy.cpuid
        for feature in ["vmx", "svm", "intel-pt", "perfctr-core", "pdcm"] { #expect(!table.contains(feature: feature)) }
        #expect(table[0xA] == nil)
        #expect(table.contains(feature: "avx512f") && table.contains(feature: "tsc-deadline"))
    }

    /// Two cores in one package, each with its own APIC id, and nothing of the host's own 77.
    @Test func topology() throws {
        for index in 0..<2 {
            let table = policy.cpuid(forVCPU: index)
            #expect(try #require(table[1]).ebx >> 24 == UInt32(index))
            #expect(try #require(table[1]).ebx >> 16 & 0xFF == 2)
            #expect(table.contains(feature: "ht"))
            #expect(try #require(table[0xB, 0]).edx == UInt32(index))
            #expect(try #require(table[0xB, 1]).ebx == 2)
            #expect(try #require(table[0xB, 1]).edx == UInt32(index))
            #expect(try #require(table[4]).eax >> 26 == 1)
        }
        #expect(!CPUPolicy(host: makeHost(), vcpuCount: 1).cpuid.contains(feature: "ht"))
    }

    @Test func descriptionNamesFeatures() throws {
        let rows = policy.stateDescription.rows
        let features = try #require(rows.first { $0.name == "features" }).value.split(separator: " ")
        #expect(features.contains("avx512f") && !features.contains("vmx"))
        #expect(rows.contains(.init(name: "msr.0xda0", value: "IA32_XSS (0xda0)")))
        #expect(Set(rows.map(\.name)).count == rows.count)
    }
}

@Suite struct CPUPolicyEncodingTests {
    private let policy = CPUPolicy(host: makeHost(), vcpuCount: 2)

    @Test func goesThroughBytes() throws {
        let bytes = policy.encoded()
        #expect(try CPUPolicy(decoding: bytes) == policy)
        #expect(try CPUPolicy(decoding: bytes).encoded() == bytes)
        #expect(bytes.count == 28 + 28 * policy.cpuid.entries.count + 4 * policy.msrs.count)
    }

    @Test func truncation() {
        let bytes = policy.encoded()
        for count in 0..<bytes.count {
            let error = #expect(throws: StateError.self) { try CPUPolicy(decoding: Array(bytes.prefix(count))) }
            #expect(error?.message == "CPU policy is cut off after \(count) bytes")
        }
        #expect(throws: StateError(.malformed, "CPU policy has 1 bytes too many at its end")) {
            try CPUPolicy(decoding: bytes + [0])
        }
    }

    /// Whatever bit is flipped, the policy is refused or is another policy with the same bytes as were read.
    @Test func flippedBits() {
        let bytes = policy.encoded()
        for bit in 0..<bytes.count * 8 {
            var damaged = bytes
            damaged[bit / 8] ^= 1 << UInt8(bit % 8)
            guard let other = try? CPUPolicy(decoding: damaged) else { continue }
            #expect(other != policy)
            #expect(other.encoded() == damaged)
            _ = other.check(on: makeHost())
        }
    }

    @Test func garbage() {
        var random = Bytes(seed: 11)
        for _ in 0..<20_000 {
            let bytes = [1, 0, 0, 0] + (0..<random.below(200)).map { _ in UInt8(truncatingIfNeeded: random.next()) }
            guard let policy = try? CPUPolicy(decoding: bytes) else { continue }
            #expect(policy.encoded() == bytes)
            _ = policy.stateDescription
        }
    }

    @Test func boundsAndVersions() {
        func message(_ change: (inout [UInt8]) -> Void) -> String? {
            var bytes = policy.encoded()
            change(&bytes)
            let error = #expect(throws: StateError.self) { try CPUPolicy(decoding: bytes) }
            return error?.message
        }
        #expect(message { $0[0] = 9 } == "CPU policy has version 9; this migratectl reads up to version 1")
        #expect(message { $0[0] = 0 } == "CPU policy has version 0, which never was")
        #expect(message { $0[2] = 1 } == "CPU policy has unknown flags 1")
        #expect(
            message { $0.replaceSubrange(20..<24, with: [0, 0, 1, 0]) }
                == "CPU policy has 65536 CPUID entries, more than the 1024 allowed")
        #expect(
            message { $0.replaceSubrange(24..<28, with: [0, 0, 0, 255]) }
                == "CPU policy has 4278190080 MSRs, more than the 4096 allowed")
        #expect(
            message { $0 = [UInt8](repeating: 0, count: 70_000) }
                == "CPU policy is 70000 bytes long, more than the 65536 allowed")
        #expect(message { $0.replaceSubrange(4..<8, with: [0, 0, 0, 0]) } == "CPU policy has a TSC frequency of 0 kHz")
    }
}

@Suite(.enabled(if: isKVMUsable, "no usable /dev/kvm on this host"))
struct CPUPolicyOnThisHostTests {
    /// A VM made here can run here, and KVM takes its CPUID.
    @Test func fitsItself() throws {
        let host = try HostCPU(of: KVMSystem())
        let policy = CPUPolicy(host: host, vcpuCount: 2)
        #expect(policy.check(on: host) == [])
        let vm = try TestVM(vcpuCount: 2, policy: CPUPolicy(decoding: policy.encoded()))
        for vcpu in vm.vcpus {
            let seen = try vcpu.cpuid()
            #expect(seen.count == policy.cpuid.entries.count)
            #expect(seen.first { $0.function == 1 }.map { $0.ebx >> 24 } == UInt32(vcpu.index))
        }
    }

    /// Each feature that this host has is missed by name on a host without it.
    @Test func everyFeatureIsMissedByName() throws {
        let host = try HostCPU(of: KVMSystem())
        let policy = CPUPolicy(host: host, vcpuCount: 2)
        // Mirrors and the policy's own topology are not compared.
        let ignored: Set<String> = ["osxsave", "ospke", "hypervisor", "ht", "cmp-legacy"]
        for name in CPUFeatures.names(in: policy.cpuid) where !ignored.contains(name) {
            let places = CPUFeatures.places(of: name)
            var poorer = host
            poorer.cpuid = CPUIDTable(
                host.cpuid.entries.map { entry in
                    var entry = entry
                    for place in places where place.leaf == entry.leaf && place.subleaf == entry.subleaf {
                        entry[place.register] &= ~(1 << UInt32(place.bit))
                    }
                    return entry
                })
            #expect(policy.check(on: poorer).contains { $0.name == name }, "\(name)")
        }
    }
}
