import Units

/// Everything that the guest has said, put together from its lines.
public struct SelfTestReport: Codable, Hashable, Sendable {
    /// How the guest was started and what it found.
    public struct Boot: Codable, Hashable, Sendable {
        public var version: Int
        public var cpuCount: Int
        public var tscKiloHertz: UInt64
        public var tscSource: String
        public var hasKVMClock: Bool
        public var hasAVX: Bool
        public var hasFSGSBase: Bool
        public var timerHertz: Int
        public var timerMode: String
        public var idle: String
        public var seed: UInt64
    }

    /// All memory is initialised, all vCPUs work.
    public struct Ready: Codable, Hashable, Sendable {
        public var pageCount: Int
        /// Guest physical addresses of the first and the last owned page. There may be holes between them.
        public var firstPage: GuestAddress
        public var lastPage: GuestAddress
        public var elapsedMilliseconds: UInt64
    }

    /// A page that was not what it should have been.
    public struct BadPage: Codable, Hashable, Sendable {
        /// `corrupt`, `stale`, `future`, `zero`, `other` (another page's content), `expectation` (the guest's own notes
        /// about the page are damaged) or `different`; docs/selftest-guest.md.
        public var kind: String
        /// The page's number among those that the guest owns.
        public var page: Int
        public var address: GuestAddress
        public var cpu: Int
        public var expected: PageState
        public var found: PageState
        public var tsc: UInt64
    }

    /// What identifies the content of a page.
    public struct PageState: Codable, Hashable, Sendable {
        public var number: UInt64
        public var generation: UInt32
        /// The checksum in the page.
        public var checksum: UInt32
        /// The sum over the page: for `found`, as it was computed.
        public var sum: UInt64
    }

    /// The answer to the command `v`, also given before the end.
    public struct Verification: Codable, Hashable, Sendable {
        public var pageCount: Int
        public var badPageCount: Int
        public var milliseconds: UInt64
    }

    /// What a vCPU has counted. The same counters as in `struct selftest_vcpu`.
    public struct Counters: Codable, Hashable, Sendable {
        public var sequence: UInt64 = 0
        public var pagesWritten: UInt64 = 0
        public var pagesRead: UInt64 = 0
        public var pagesVerified: UInt64 = 0
        public var errors: UInt64 = 0
        public var timerTicks: UInt64 = 0
        public var timerStalls: UInt64 = 0
        public var tscBackward: UInt64 = 0
        public var clockBackward: UInt64 = 0
        public var registerFailures: UInt64 = 0
        public var heartbeatFailures: UInt64 = 0
    }

    /// One vCPU's line of a report.
    public struct CPU: Codable, Hashable, Sendable {
        public var index: Int
        public var counters: Counters
        public var registerChecks: UInt64
        public var lostRegisters: SelfTestRegisters
        /// The largest step back of the TSC, in cycles.
        public var tscStep: UInt64
    }

    /// The last line of a report: all vCPUs together.
    public struct Summary: Codable, Hashable, Sendable {
        public var elapsedMilliseconds: UInt64
        public var cpuCount: Int
        public var pageCount: Int
        public var tscKiloHertz: UInt64
        public var counters: Counters
        public var largestGap: SelfTestGap
        /// Whether all was as it should be up to this moment.
        public var passed: Bool
    }

    /// An exception inside the guest that nobody expected.
    public struct Fault: Codable, Hashable, Sendable {
        public var cpu: Int
        public var vector: Int
        public var error: UInt64
        public var rip: GuestAddress
        public var cr2: GuestAddress
    }

    public var boot: Boot?
    public var ready: Ready?
    public var badPages: [BadPage] = []
    public var verifications: [Verification] = []
    /// The vCPUs and gaps of the latest report.
    public var cpus: [CPU] = []
    public var gaps: [SelfTestGap] = []
    public var summary: Summary?
    public var fault: Fault?
    public var error: String?
    public var exitCode: Int?
    /// Lines of the guest that could not be read.
    public var malformedLines: [String] = []

    /// Lists kept of what the guest repeats stay below this: the guest decides how much it says, not how much we keep.
    public static let listLimit = 65536

    private var summaryIsComplete = false

    public init() {}

    /// The guest's verdict, if it has given one. `fatal` if it could not run.
    public var verdict: SelfTestVerdict? {
        if fault != nil || error != nil { return .fatal }
        if let exitCode { return UInt8(exactly: exitCode).flatMap(SelfTestVerdict.init(rawValue:)) ?? .fatal }
        return summary.map { $0.passed ? .pass : .fail }
    }

    /// Takes in one event, in the order in which the guest printed them.
    public mutating func add(_ event: SelfTestEvent) {
        switch event {
        case .boot(let value):
            self = SelfTestReport()
            boot = value
        case .ready(let value): ready = value
        case .badPage(let value): Self.append(value, to: &badPages)
        case .verify(let value): Self.append(value, to: &verifications)
        case .cpu(let value):
            beginReport()
            Self.append(value, to: &cpus)
        case .gap(let value):
            beginReport()
            Self.append(value, to: &gaps)
        case .summary(let value):
            summary = value
            summaryIsComplete = true
        case .gapsReset: gaps = []
        case .fault(let value): fault = value
        case .error(let reason): error = reason
        case .exit(let code): exitCode = code
        case .malformed(let line): Self.append(line, to: &malformedLines)
        }
    }

    /// A report begins with its first vCPU; what an earlier one said goes.
    private mutating func beginReport() {
        guard summaryIsComplete else { return }
        summaryIsComplete = false
        cpus = []
        gaps = []
    }

    private static func append<Element>(_ element: Element, to list: inout [Element]) {
        if list.count < listLimit { list.append(element) }
    }
}

/// A gap in a vCPU's heartbeat: it ran its last instruction before the gap at about `fromTSC`, its first one after it at
/// about `toTSC`.
public struct SelfTestGap: Codable, Hashable, Sendable {
    /// Nil in a summary, which does not say.
    public var cpu: Int?
    public var fromTSC: UInt64
    public var toTSC: UInt64
    public var nanoseconds: UInt64

    public init(cpu: Int?, fromTSC: UInt64, toTSC: UInt64, nanoseconds: UInt64) {
        self.cpu = cpu
        self.fromTSC = fromTSC
        self.toTSC = toTSC
        self.nanoseconds = nanoseconds
    }

    public var duration: Duration { .nanoseconds(Int64(clamping: nanoseconds)) }
}

/// Kinds of registers whose value a vCPU has lost at least once.
public struct SelfTestRegisters: OptionSet, Codable, Hashable, Sendable, CustomStringConvertible {
    public var rawValue: UInt32

    public init(rawValue: UInt32) { self.rawValue = rawValue }

    public static let x87Control = SelfTestRegisters(rawValue: 1)
    public static let mxcsr = SelfTestRegisters(rawValue: 2)
    public static let x87 = SelfTestRegisters(rawValue: 4)
    public static let sse = SelfTestRegisters(rawValue: 8)
    /// The upper halves of the AVX registers.
    public static let avx = SelfTestRegisters(rawValue: 16)
    public static let fs = SelfTestRegisters(rawValue: 32)
    public static let gs = SelfTestRegisters(rawValue: 64)

    private static let names: [(SelfTestRegisters, String)] = [
        (.x87Control, "x87 control"), (.mxcsr, "MXCSR"), (.x87, "x87"), (.sse, "SSE"), (.avx, "AVX"), (.fs, "FS base"),
        (.gs, "GS base"),
    ]

    public var description: String {
        Self.names.filter { contains($0.0) }.map(\.1).joined(separator: ", ")
    }
}
