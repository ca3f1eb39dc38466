/// What clients send: checked field by field before anything is done with it.

/// How well a migration has to go. Absent fields are not changed, or have their default.
public struct MigrationLimitsPayload: Codable, Equatable, Sendable {
    /// `min-downtime`, `bounded-time` or `no-disruption`.
    public var policy: String?
    public var maxDowntimeMilliseconds: Double?
    /// Guest memory a second over all lanes; 0 lifts the limit.
    public var maxBytesPerSecond: UInt64?
    /// The whole migration; 0 lifts the limit.
    public var maxTimeMilliseconds: Double?
    /// By how much at most vCPUs may be slowed down, in percent.
    public var maxThrottlePercent: Double?

    /// The policies that there are.
    public static let policies = ["min-downtime", "bounded-time", "no-disruption"]

    public init(
        policy: String? = nil, maxDowntimeMilliseconds: Double? = nil, maxBytesPerSecond: UInt64? = nil,
        maxTimeMilliseconds: Double? = nil, maxThrottlePercent: Double? = nil
    ) {
        self.policy = policy
        self.maxDowntimeMilliseconds = maxDowntimeMilliseconds
        self.maxBytesPerSecond = maxBytesPerSecond
        self.maxTimeMilliseconds = maxTimeMilliseconds
        self.maxThrottlePercent = maxThrottlePercent
    }

    enum CodingKeys: String, CodingKey, CaseIterable {
        case policy, maxDowntimeMilliseconds, maxBytesPerSecond, maxTimeMilliseconds, maxThrottlePercent
    }

    public init(from decoder: any Decoder) throws {
        try decoder.refuseUnknownFields(except: CodingKeys.self)
        let container = try decoder.container(keyedBy: CodingKeys.self)
        policy = try container.decodeIfPresent(String.self, forKey: .policy)
        maxDowntimeMilliseconds = try container.decodeIfPresent(Double.self, forKey: .maxDowntimeMilliseconds)
        maxBytesPerSecond = try container.decodeIfPresent(UInt64.self, forKey: .maxBytesPerSecond)
        maxTimeMilliseconds = try container.decodeIfPresent(Double.self, forKey: .maxTimeMilliseconds)
        maxThrottlePercent = try container.decodeIfPresent(Double.self, forKey: .maxThrottlePercent)
        try validate()
    }

    public var isEmpty: Bool { self == MigrationLimitsPayload() }

    /// A day: whatever is longer is a mistake in the unit.
    private static let longest: Double = 24 * 3600 * 1000

    /// - Throws: `badRequest`, naming the value that makes no sense.
    public func validate() throws(ControlError) {
        if let policy, !Self.policies.contains(policy) {
            throw ControlError(
                .badRequest,
                "There is no policy \(VMName.quoted(policy)): known are "
                    + Self.policies.joined(separator: ", ") + ".")
        }
        if let value = maxDowntimeMilliseconds, !(value > 0 && value <= Self.longest) {
            throw ControlError(.badRequest, "A downtime limit must be more than 0 and at most a day.")
        }
        if let value = maxTimeMilliseconds, !(value >= 0 && value <= Self.longest) {
            throw ControlError(.badRequest, "A time limit must be at most a day (0 for none).")
        }
        if let value = maxBytesPerSecond, value != 0, value < 64 * 1024 {
            throw ControlError(.badRequest, "A bandwidth limit must be at least 64 KiB a second (0 for none).")
        }
        if let value = maxThrottlePercent, !(value >= 0 && value <= 99) {
            throw ControlError(.badRequest, "Throttling goes from 0 to 99 percent.")
        }
    }
}

/// Where to send the VM, and how.
public struct SendRequest: Codable, Equatable, Sendable {
    /// `host:port`, `[v6]:port` or `unix:PATH`.
    public var destination: String
    /// 1 to 16; chosen from the cores if absent.
    public var lanes: Int?
    public var limits: MigrationLimitsPayload
    /// Lets the guest's memory cross a network unencrypted.
    public var insecure: Bool

    public init(
        destination: String, lanes: Int? = nil, limits: MigrationLimitsPayload = MigrationLimitsPayload(),
        insecure: Bool = false
    ) {
        self.destination = destination
        self.lanes = lanes
        self.limits = limits
        self.insecure = insecure
    }

    enum CodingKeys: String, CodingKey, CaseIterable {
        case destination, lanes, limits, insecure
    }

    public init(from decoder: any Decoder) throws {
        try decoder.refuseUnknownFields(except: CodingKeys.self)
        let container = try decoder.container(keyedBy: CodingKeys.self)
        destination = try container.decode(String.self, forKey: .destination)
        lanes = try container.decodeIfPresent(Int.self, forKey: .lanes)
        limits = try container.decodeIfPresent(MigrationLimitsPayload.self, forKey: .limits) ?? MigrationLimitsPayload()
        insecure = try container.decodeIfPresent(Bool.self, forKey: .insecure) ?? false
        if destination.isEmpty { throw ControlError(.badRequest, "The destination is empty.") }
        if let lanes, !(1...16).contains(lanes) { throw ControlError(.badRequest, "A migration has 1 to 16 lanes.") }
    }
}

/// A person's decision about a VM that a broken hand-over left stopped on both sides.
public struct ResolveRequest: Codable, Equatable, Sendable {
    public enum Decision: String, Codable, Sendable, CaseIterable {
        /// This side is the VM from now on.
        case keep
        /// This side's copy is void.
        case discard
    }

    public var decision: Decision
    /// Must be true: only a person can know that the other side will not run the VM as well.
    public var otherSideIsDead: Bool

    public init(decision: Decision, otherSideIsDead: Bool) {
        self.decision = decision
        self.otherSideIsDead = otherSideIsDead
    }

    enum CodingKeys: String, CodingKey, CaseIterable {
        case decision, otherSideIsDead
    }

    public init(from decoder: any Decoder) throws {
        try decoder.refuseUnknownFields(except: CodingKeys.self)
        let container = try decoder.container(keyedBy: CodingKeys.self)
        decision = try container.decode(Decision.self, forKey: .decision)
        otherSideIsDead = try container.decode(Bool.self, forKey: .otherSideIsDead)
    }
}
