/// What clients send: checked field by field before anything is done with it.

import Migrate

/// How well a migration has to go. Absent fields are not changed, or have their default.
public struct MigrationLimitsPayload: Codable, Equatable, Sendable {
    /// `min-downtime`, `bounded-time` or `no-disruption`.
    public var policy: String?
    public var maxDowntimeMilliseconds: Double?
    /// Guest memory a second over all lanes; 0 lifts the limit.
    public var maxBytesPerSecond: UInt64?
    /// The whole migration; 0 lifts the limit.
    public var maxTimeMilliseconds: Double?

    /// The policies that there are.
    public static let policies = MigrationPolicy.allCases.map(\.rawValue)

    public init(
        policy: String? = nil, maxDowntimeMilliseconds: Double? = nil, maxBytesPerSecond: UInt64? = nil,
        maxTimeMilliseconds: Double? = nil
    ) {
        self.policy = policy
        self.maxDowntimeMilliseconds = maxDowntimeMilliseconds
        self.maxBytesPerSecond = maxBytesPerSecond
        self.maxTimeMilliseconds = maxTimeMilliseconds
    }

    enum CodingKeys: String, CodingKey, CaseIterable {
        case policy, maxDowntimeMilliseconds, maxBytesPerSecond, maxTimeMilliseconds
    }

    public init(from decoder: any Decoder) throws {
        try decoder.refuseUnknownFields(except: CodingKeys.self)
        let container = try decoder.container(keyedBy: CodingKeys.self)
        policy = try container.decodeIfPresent(String.self, forKey: .policy)
        maxDowntimeMilliseconds = try container.decodeIfPresent(Double.self, forKey: .maxDowntimeMilliseconds)
        maxBytesPerSecond = try container.decodeIfPresent(UInt64.self, forKey: .maxBytesPerSecond)
        maxTimeMilliseconds = try container.decodeIfPresent(Double.self, forKey: .maxTimeMilliseconds)
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
    /// `precopy` (if absent), `postcopy` or `hybrid`.
    public var mode: MigrationMode?
    /// A directory (an absolute path at the source) that receives a copy of everything sent, for `migratectl inspect`.
    public var recordDirectory: String?

    public init(
        destination: String, lanes: Int? = nil, limits: MigrationLimitsPayload = MigrationLimitsPayload(),
        insecure: Bool = false, mode: MigrationMode? = nil, recordDirectory: String? = nil
    ) {
        self.destination = destination
        self.mode = mode
        self.lanes = lanes
        self.limits = limits
        self.insecure = insecure
        self.recordDirectory = recordDirectory
    }

    enum CodingKeys: String, CodingKey, CaseIterable {
        case destination, lanes, limits, insecure, mode, recordDirectory
    }

    public init(from decoder: any Decoder) throws {
        try decoder.refuseUnknownFields(except: CodingKeys.self)
        let container = try decoder.container(keyedBy: CodingKeys.self)
        destination = try container.decode(String.self, forKey: .destination)
        lanes = try container.decodeIfPresent(Int.self, forKey: .lanes)
        limits = try container.decodeIfPresent(MigrationLimitsPayload.self, forKey: .limits) ?? MigrationLimitsPayload()
        insecure = try container.decodeIfPresent(Bool.self, forKey: .insecure) ?? false
        if let name = try container.decodeIfPresent(String.self, forKey: .mode) {
            guard let known = MigrationMode(rawValue: name) else {
                throw ControlError(
                    .badRequest,
                    "There is no mode \(VMName.quoted(name)): known are "
                        + MigrationMode.allCases.map(\.rawValue).joined(separator: ", ") + ".")
            }
            mode = known
        }
        recordDirectory = try container.decodeIfPresent(String.self, forKey: .recordDirectory)
        if let recordDirectory, !recordDirectory.hasPrefix("/") {
            throw ControlError(.badRequest, "The directory for the record must be an absolute path.")
        }
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

/// What the guest shall do before it reports.
public struct GuestReportRequest: Equatable, Sendable {
    /// Look at every page that it owns.
    public var verify: Bool
    /// Forget the gaps that it felt so far, after it has reported them.
    public var resetGaps: Bool
    /// How long to wait for it.
    public var timeout: Duration

    public init(verify: Bool = false, resetGaps: Bool = false, timeout: Duration = .seconds(20)) {
        self.verify = verify
        self.resetGaps = resetGaps
        self.timeout = timeout
    }

    init(query: [String: String]) throws(ControlError) {
        self.init()
        for (name, value) in query {
            switch (name, value) {
            case ("verify", "true"): verify = true
            case ("verify", "false"): verify = false
            case ("resetGaps", "true"): resetGaps = true
            case ("resetGaps", "false"): resetGaps = false
            case ("timeoutMilliseconds", _):
                guard let number = Int(value), (1...600_000).contains(number) else {
                    throw ControlError(.badRequest, "timeoutMilliseconds goes from 1 to 600000.")
                }
                timeout = .milliseconds(number)
            default:
                throw ControlError(
                    .badRequest,
                    "A report takes verify=true, resetGaps=true and timeoutMilliseconds=N, not "
                        + "\(VMName.quoted(name))=\(VMName.quoted(value)).")
            }
        }
    }

    var query: String {
        "verify=\(verify)&resetGaps=\(resetGaps)&timeoutMilliseconds=\(max(1, timeout.inMilliseconds))"
    }
}

extension Duration {
    /// Whole milliseconds, cut off.
    var inMilliseconds: Int64 { components.seconds * 1000 + components.attoseconds / 1_000_000_000_000_000 }
}
