/// How much of its host's CPU a new VM gets: all of it, or only what other hosts have as well.

/// The CPU that a VM is made with. Every model but `host` is the same on each host that has what it names, so that the VM
/// can move between them.
public struct CPUModel: Hashable, Sendable {
    /// What the model starts from.
    public enum Base: Hashable, Sendable {
        /// Everything that the host offers and that can be moved.
        case host
        /// A level of the x86-64 psABI (section "Micro-Architecture Levels"): 1 to 4.
        case level(Int)
        /// What several hosts have in common.
        case baseline(CPUBaseline)
    }

    public var base: Base
    /// Features on top of the base.
    public var added: [String]
    /// Features of the base that the VM does not get.
    public var removed: [String]

    public init(_ base: Base, adding added: [String] = [], removing removed: [String] = []) {
        self.base = base
        self.added = added
        self.removed = removed
    }

    public static let host = CPUModel(.host)

    /// Reads "host", "x86-64-v2", "x86-64-v3,+aes,-avx2", or a baseline's name with such features.
    /// - Parameter baseline: gives the baseline for a name that is none of the above.
    /// - Throws: `StateError` (`invalidValue`) that names what is not known, or what `baseline` throws.
    public init(
        parsing text: String, baseline: (String) throws -> CPUBaseline? = { _ in nil }
    ) throws {
        let parts = text.split(separator: ",", omittingEmptySubsequences: false).map(String.init)
        let name = parts.first ?? ""
        switch name {
        case "host": base = .host
        case "x86-64", "x86-64-v1": base = .level(1)
        case "x86-64-v2": base = .level(2)
        case "x86-64-v3": base = .level(3)
        case "x86-64-v4": base = .level(4)
        default:
            guard let found = try baseline(name) else {
                throw StateError(
                    .invalidValue,
                    "there is no CPU model '\(name)'; known are host, x86-64-v1 to x86-64-v4, and files of doctor --baseline"
                )
            }
            base = .baseline(found)
        }
        (added, removed) = ([], [])
        for part in parts.dropFirst() {
            let feature = String(part.dropFirst())
            guard !CPUFeatures.places(of: feature).isEmpty else {
                throw StateError(
                    .invalidValue, "CPU model '\(text)': '\(part)' is not +FEATURE or -FEATURE of a known feature")
            }
            switch part.first {
            case "+": added.append(feature)
            case "-": removed.append(feature)
            default: throw StateError(.invalidValue, "CPU model '\(text)': '\(part)' begins with neither + nor -")
            }
        }
    }

    /// The features that the base names; nil for all of the host's.
    var baseFeatures: Set<String>? {
        switch base {
        case .host: nil
        case .level(let level): Self.features(ofLevel: level)
        case .baseline(let baseline): Set(baseline.features)
        }
    }

    /// The features that a host must have for this model. KVM's own, which it emulates, differ by its version and are
    /// taken as they are.
    var requiredFeatures: Set<String> {
        let base: Set<String> =
            switch base {
            case .host: []
            case .level(let level): Self.features(ofLevel: level).subtracting(Self.emulated).subtracting(Self.usual)
            case .baseline(let baseline): Set(baseline.features)
            }
        return base.union(added).subtracting(removed)
    }

    private static func features(ofLevel level: Int) -> Set<String> {
        var features = emulated.union(usual)
        for words in levels.prefix(max(0, level)) { features.formUnion(words.split(separator: " ").map(String.init)) }
        return features
    }

    /// What each level adds.
    private static let levels = [
        "cmov cx8 fpu fxsr mmx syscall sse sse2 lm xsave-x87 xsave-sse",
        "cx16 lahf-lm popcnt sse3 sse4.1 sse4.2 ssse3",
        "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave xsave-avx",
        "avx512f avx512bw avx512cd avx512dq avx512vl xsave-opmask xsave-zmm-hi256 xsave-hi16-zmm",
    ]

    /// What nearly every 64-bit CPU has besides the psABI's list, and kernels use. Emulated hosts lack some of it (QEMU's TCG
    /// has no VME): that is no reason to refuse a level.
    private static let usual: Set<String> = [
        "vme", "de", "pse", "tsc", "msr", "pae", "mce", "apic", "sep", "mtrr", "pge", "mca", "pat", "pse36", "clflush",
        "nx",
    ]

    /// Offered by KVM on every CPU (since Linux 5.10), whatever the CPU itself has.
    private static let emulated: Set<String> = [
        "x2apic", "tsc-deadline", "hypervisor", "tsc-adjust", "kvmclock", "kvm-nop-io-delay", "kvmclock2",
        "kvm-async-pf",
        "kvm-steal-time", "kvm-pv-eoi", "kvm-pv-unhalt", "kvm-pv-tlb-flush", "kvm-async-pf-vmexit", "kvm-pv-send-ipi",
        "kvm-poll-control", "kvm-pv-sched-yield", "kvm-async-pf-int", "kvmclock-stable",
    ]
}

extension CPUModel: CustomStringConvertible {
    public var description: String {
        let name =
            switch base {
            case .host: "host"
            case .level(let level): "x86-64-v\(level)"
            case .baseline: "a baseline"
            }
        return ([name] + added.map { "+\($0)" } + removed.map { "-\($0)" }).joined(separator: ",")
    }
}
