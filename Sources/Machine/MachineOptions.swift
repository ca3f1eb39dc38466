/// How a machine is made.

import KVM
import Units
import VMState

/// Which of KVM's logs tells the pages that the guest writes. Fixed when the machine is made.
public enum DirtyTrackerKind: String, Sendable, CaseIterable, Codable {
    case bitmap
    /// Rings cost by the page dirtied and exclude the bitmap.
    case ring
}

/// What a machine boots.
public enum GuestImage: Equatable, Sendable {
    /// The built-in test guest (docs/selftest-guest.md).
    case selftest(commandLine: String)
    /// An ELF file with a PVH entry note.
    case elf(path: String, commandLine: String)
    /// A Linux kernel, bzImage or ELF (`vmlinux`), on a machine with ACPI tables and a clock.
    case linux(kernel: String, initrd: String?, commandLine: String)
}

/// Where the guest's serial output goes, besides the machine's own history. Called on a thread of its own, in order; it
/// may block without holding up the guest.
public typealias SerialSink = @Sendable ([UInt8]) -> Void

/// Everything about a machine's host side: what its guest cannot see, and what may differ where it moves to.
public struct HostOptions: Sendable {
    public var memoryBacking: MemoryBacking
    public var dirtyTracker: DirtyTrackerKind
    /// Entries of each vCPU's dirty ring, where rings are used: a power of two, up to 65536 on most hosts.
    public var dirtyRingEntryCount: Int
    public var serialSink: SerialSink?
    /// Bytes of serial output kept for whoever asks later.
    public var serialHistoryByteCount: Int
    public var kvmPath: String
    /// Of a machine that comes from elsewhere: what its disks are called here, by their numbers.
    public var diskPaths: [Int: String]
    /// The same of the tap interfaces of its network cards.
    public var tapNames: [Int: String]
    /// Open what a VM that comes from elsewhere names: its source then says which files of this host its guest reads and
    /// writes.
    public var opensWhatSourceNames: Bool

    public init(
        memoryBacking: MemoryBacking = .anonymous, dirtyTracker: DirtyTrackerKind = .bitmap,
        dirtyRingEntryCount: Int = 65536, serialSink: SerialSink? = nil, serialHistoryByteCount: Int = 256 << 10,
        kvmPath: String = "/dev/kvm", diskPaths: [Int: String] = [:], tapNames: [Int: String] = [:],
        opensWhatSourceNames: Bool = false
    ) {
        self.memoryBacking = memoryBacking
        self.dirtyTracker = dirtyTracker
        self.dirtyRingEntryCount = dirtyRingEntryCount
        self.serialSink = serialSink
        self.serialHistoryByteCount = serialHistoryByteCount
        self.kvmPath = kvmPath
        self.diskPaths = diskPaths
        self.tapNames = tapNames
        self.opensWhatSourceNames = opensWhatSourceNames
    }
}

/// A new machine: what its guest sees, and its host side.
public struct MachineOptions: Sendable {
    public var name: String
    /// 16 bytes that stay the same wherever the machine goes.
    public var identifier: [UInt8]
    public var memory: ByteCount
    public var vcpuCount: Int
    /// How much of this host's CPU the guest gets.
    public var cpu: CPUModel
    public var guest: GuestImage
    /// The virtio devices, in the order of their slots.
    public var devices: [VirtualDevice]
    public var host: HostOptions

    public init(
        name: String, identifier: [UInt8] = MachineOptions.randomIdentifier(), memory: ByteCount, vcpuCount: Int = 1,
        cpu: CPUModel = .host, guest: GuestImage, devices: [VirtualDevice] = [], host: HostOptions = HostOptions()
    ) {
        self.name = name
        self.identifier = identifier
        self.memory = memory
        self.vcpuCount = vcpuCount
        self.cpu = cpu
        self.guest = guest
        self.devices = devices
        self.host = host
    }

    /// 128 random bits.
    public static func randomIdentifier() -> [UInt8] {
        var generator = SystemRandomNumberGenerator()
        return (0..<16).map { _ in UInt8.random(in: .min ... .max, using: &generator) }
    }
}

/// The names that machines may have: they become file names and parts of messages.
public enum MachineName {
    public static let maximumLength = 64

    /// What is wrong with a name, nil when nothing is.
    public static func problem(with name: String) -> String? {
        guard !name.isEmpty else { return "a machine's name must not be empty" }
        guard name.utf8.count <= maximumLength else {
            return "a machine's name must not be longer than \(maximumLength) characters"
        }
        for (place, byte) in name.utf8.enumerated() {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"):
                continue
            case UInt8(ascii: "-"), UInt8(ascii: "."):
                if place > 0 { continue }
                return "a machine's name must begin with a letter, a digit or an underscore"
            default:
                return "a machine's name consists of letters, digits, '.', '_' and '-' only"
            }
        }
        return nil
    }
}
