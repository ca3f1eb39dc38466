/// What the test guest shall do: a value for each word of its command line (docs/selftest-guest.md). Everything left at
/// its default is left to the guest.
public struct SelfTestOptions: Codable, Hashable, Sendable {
    /// Which pages the work touches.
    public enum Pattern: String, Codable, CaseIterable, Sendable {
        /// Any page of the working set, each as likely as the others.
        case uniform
        /// Most accesses (`hotAccessPercent`) go to a small part (`hotSetPercent`) of the working set.
        case hotcold
        /// One page after the other, over and over.
        case sequential
        /// Uniform, but only the 8 bytes of the stamp change on each page.
        case sparse
        /// Uniform in an eighth of the working set, which moves elsewhere every `phaseSeconds`.
        case phase
        /// No work at all.
        case idle
    }

    /// How much work there is, in MB/s (10^6 bytes) of whole pages, over all vCPUs.
    public enum Rate: Hashable, Sendable {
        case megabytesPerSecond(Int)
        /// As fast as the vCPUs can.
        case unlimited
        public static let none = Rate.megabytesPerSecond(0)
    }

    /// What pages are filled with.
    public enum Content: String, Codable, CaseIterable, Sendable {
        /// Pseudo-random numbers that no codec makes smaller.
        case random
        /// Zeros behind the header of 16 bytes.
        case zero
        /// Words of English: compresses as text does.
        case text
    }

    public enum TimerMode: String, Codable, CaseIterable, Sendable {
        case periodic
        /// The TSC deadline timer, armed again by each interrupt.
        case deadline
    }

    /// What a vCPU does while nothing is due.
    public enum Idle: String, Codable, CaseIterable, Sendable {
        /// HLT until the next tick. The heartbeat then beats with the timer.
        case halt
        /// Spin in ring 3. The heartbeat beats every microsecond or so, at the price of a whole core.
        case spin
    }

    /// What is looked at before a page is rewritten, and by reads.
    public enum Check: String, Codable, CaseIterable, Sendable {
        /// The sum over the whole page.
        case full
        /// Number, generation and checksum only: several times faster.
        case head
    }

    /// Which vector registers hold known values.
    public enum Vector: String, Codable, CaseIterable, Sendable {
        case avx
        /// For peers that lose the upper halves.
        case sse
    }

    /// Memory that the guest owns and verifies, in MiB; nil: all that it finds.
    public var memoryMiB: Int?
    /// The part of it that the work touches, in MiB; nil: all.
    public var workingSetMiB: Int?
    /// The part of it that is filled with content at the start, in MiB; nil: all. The rest stays untouched until it is
    /// written, and must read as zeros until then.
    public var initialisedMiB: Int?
    /// vCPUs to use; nil: as many as the ACPI tables list, or one.
    public var cpuCount: Int?
    public var writeRate = Rate.none
    /// Reads check pages with the same pattern.
    public var readRate = Rate.none
    public var pattern = Pattern.uniform
    /// Bytes that change on each written page, the 8 bytes of the stamp included.
    public var fillByteCount = 64
    public var content = Content.random
    public var hotAccessPercent = 90
    public var hotSetPercent = 10
    public var phaseSeconds = 3
    /// Timer interrupts a second on each vCPU; nil: 1000 with `Idle.halt`, 100 with `Idle.spin`; 0: none.
    public var timerHertz: Int?
    public var timerMode = TimerMode.periodic
    public var idle = Idle.halt
    /// After how many seconds the guest verifies everything, reports and exits; nil: only when told to.
    public var seconds: Int?
    public var check = Check.full
    /// Seed of all pseudo-random numbers.
    public var seed = 1
    /// Seconds between reports that nobody asked for; nil: none.
    public var reportIntervalSeconds: Int?
    /// The most lines about wrong pages that are printed; more are counted only.
    public var badLineLimit = 64
    public var vector = Vector.avx

    public init() {}
}

extension SelfTestOptions.Rate: Codable {
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if (try? container.decode(String.self)) == "max" {
            self = .unlimited
        } else {
            self = .megabytesPerSecond(try container.decode(Int.self))
        }
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .unlimited: try container.encode("max")
        case .megabytesPerSecond(let rate): try container.encode(rate)
        }
    }
}
