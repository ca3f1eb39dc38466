import CSelfTest
import Units

/// A look at the page that the guest shares with the VMM (`struct selftest_shared` and the vCPU entries behind it), from
/// a copy of that memory. If vCPUs were running while it was copied, counters may be of slightly different moments.
public struct SelfTestHeartbeat: Codable, Hashable, Sendable {
    /// Of the guest, or of one vCPU.
    public enum State: UInt32, Codable, Sendable {
        case absent = 0
        case starting = 1
        case running = 2
        case stopped = 3
    }

    /// One vCPU.
    public struct CPU: Codable, Hashable, Sendable {
        public var state: State
        /// The TSC at the last heartbeat. Where guest and host share the TSC, this compares with the VMM's own stamps.
        public var lastTSC: UInt64
        public var counters: SelfTestReport.Counters
        public var registerChecks: UInt64
        public var lostRegisters: SelfTestRegisters
        /// The largest step back of the TSC, in cycles.
        public var tscStep: UInt64
        /// The largest gaps since the start or the command `g`, largest first.
        public var gaps: [SelfTestGap]
    }

    public var state: State
    /// 0 until the guest has found it out.
    public var tscKiloHertz: UInt64
    public var ownedPageCount: UInt64
    public var bootTSC: UInt64
    public var readyTSC: UInt64
    public var timerHertz: UInt64
    public var cpus: [CPU]

    /// The largest gap of any vCPU.
    public var largestGap: SelfTestGap? {
        cpus.compactMap(\.gaps.first).max { $0.nanoseconds < $1.nanoseconds }
    }

    /// Reads a copy of the memory from `SelfTestImage.sharedAddress` on. Nil if the guest is not there, speaks another
    /// version, or has more vCPUs than the copy holds.
    public init?(_ bytes: RawSpan) {
        func load<Value: BitwiseCopyable>(_ offset: Int32, _ type: Value.Type, from start: Int = 0) -> Value? {
            let place = start + Int(offset)
            guard place >= 0, place + MemoryLayout<Value>.size <= bytes.byteCount else { return nil }
            return unsafe bytes.unsafeLoadUnaligned(fromByteOffset: place, as: Value.self)
        }
        guard let magic = load(SELFTEST_SHARED_OFFSET_MAGIC, UInt64.self), magic == UInt64(SELFTEST_MAGIC),
            let version = load(SELFTEST_SHARED_OFFSET_VERSION, UInt32.self), version == UInt32(SELFTEST_VERSION),
            let state = load(SELFTEST_SHARED_OFFSET_STATE, UInt32.self).flatMap(State.init(rawValue:)),
            let cpuCount = load(SELFTEST_SHARED_OFFSET_VCPU_COUNT, UInt32.self),
            cpuCount <= UInt32(SelfTestImage.maximumCPUCount),
            let tscKiloHertz = load(SELFTEST_SHARED_OFFSET_TSC_KHZ, UInt64.self),
            let ownedPageCount = load(SELFTEST_SHARED_OFFSET_OWNED_PAGES, UInt64.self),
            let bootTSC = load(SELFTEST_SHARED_OFFSET_BOOT_TSC, UInt64.self),
            let readyTSC = load(SELFTEST_SHARED_OFFSET_READY_TSC, UInt64.self),
            let timerHertz = load(SELFTEST_SHARED_OFFSET_TIMER_HZ, UInt64.self)
        else { return nil }
        self.state = state
        self.tscKiloHertz = tscKiloHertz
        self.ownedPageCount = ownedPageCount
        self.bootTSC = bootTSC
        self.readyTSC = readyTSC
        self.timerHertz = timerHertz
        cpus = []
        for index in 0..<Int(cpuCount) {
            let start = Int(SELFTEST_VCPU_ADDRESS - SELFTEST_SHARED_ADDRESS) + index * Int(SELFTEST_VCPU_BYTES)
            guard start + Int(SELFTEST_VCPU_BYTES) <= bytes.byteCount else { return nil }
            func counter(_ offset: Int32) -> UInt64 { load(offset, UInt64.self, from: start) ?? 0 }
            var counters = SelfTestReport.Counters()
            counters.sequence = counter(SELFTEST_VCPU_OFFSET_SEQUENCE)
            counters.pagesWritten = counter(SELFTEST_VCPU_OFFSET_PAGES_WRITTEN)
            counters.pagesRead = counter(SELFTEST_VCPU_OFFSET_PAGES_READ)
            counters.pagesVerified = counter(SELFTEST_VCPU_OFFSET_PAGES_VERIFIED)
            counters.errors = counter(SELFTEST_VCPU_OFFSET_ERRORS)
            counters.timerTicks = counter(SELFTEST_VCPU_OFFSET_TIMER_TICKS)
            counters.timerStalls = counter(SELFTEST_VCPU_OFFSET_TIMER_STALLS)
            counters.tscBackward = counter(SELFTEST_VCPU_OFFSET_TSC_BACKWARD)
            counters.clockBackward = counter(SELFTEST_VCPU_OFFSET_CLOCK_BACKWARD)
            counters.registerFailures = counter(SELFTEST_VCPU_OFFSET_REGISTER_FAILURES)
            counters.heartbeatFailures = counter(SELFTEST_VCPU_OFFSET_HEARTBEAT_FAILURES)
            let gaps = (0..<SELFTEST_GAPS).compactMap { slot -> SelfTestGap? in
                let offset = SELFTEST_VCPU_OFFSET_GAPS + slot * 16
                let (from, to) = (counter(offset), counter(offset + 8))
                guard to > from else { return nil }
                return SelfTestGap(
                    cpu: index, fromTSC: from, toTSC: to,
                    nanoseconds: Self.nanoseconds(cycles: to - from, tscKiloHertz: tscKiloHertz))
            }
            cpus.append(
                CPU(
                    state: load(SELFTEST_VCPU_OFFSET_STATE, UInt32.self, from: start).flatMap(State.init(rawValue:))
                        ?? .absent,
                    lastTSC: counter(SELFTEST_VCPU_OFFSET_LAST_TSC), counters: counters,
                    registerChecks: counter(SELFTEST_VCPU_OFFSET_REGISTER_CHECKS),
                    lostRegisters: SelfTestRegisters(
                        rawValue: load(SELFTEST_VCPU_OFFSET_REGISTER_MASK, UInt32.self, from: start) ?? 0),
                    tscStep: counter(SELFTEST_VCPU_OFFSET_TSC_STEP),
                    gaps: gaps.sorted { $0.nanoseconds > $1.nanoseconds }))
        }
    }

    /// Cycles of a TSC in nanoseconds; 0 while its frequency is unknown.
    public static func nanoseconds(cycles: UInt64, tscKiloHertz: UInt64) -> UInt64 {
        guard tscKiloHertz > 0 else { return 0 }
        let product = cycles.multipliedFullWidth(by: 1_000_000)
        guard product.high < tscKiloHertz else { return .max }
        return tscKiloHertz.dividingFullWidth(product).quotient
    }
}
