/// What people allow a migration to cost. May change while it runs: the next decision is made with the new limits.

/// What matters most to whoever asked for the migration (docs/policy.md).
public enum MigrationPolicy: String, Hashable, Sendable, CaseIterable, Codable {
    /// Keep trying for a short downtime as long as the time allows; throttle only where that was allowed.
    case minDowntime = "min-downtime"
    /// Be done in time: throttle early where that was allowed, and do not wait for a better moment.
    case boundedTime = "bounded-time"
    /// Do not slow the guest down: never throttle, and stop trying as soon as it does not help.
    case noDisruption = "no-disruption"
}

public struct MigrationLimits: Hashable, Sendable {
    public var policy = MigrationPolicy.minDowntime
    /// The VM is not stopped as long as it would stand still for longer than this. Never exceeded on purpose.
    public var maxDowntime = Duration.milliseconds(300)
    /// From the first page to the VM running there; `nil` is as long as there is progress.
    public var maxTime: Duration?
    /// Bytes per second over all lanes; `nil` is unlimited.
    public var maxBandwidth: UInt64?
    /// The share of their time that vCPUs may be held back, in percent; 0 forbids it, and more than 99 counts as 99.
    public var maxThrottle = 0

    public init() {}

    /// All at once.
    public init(
        policy: MigrationPolicy = .minDowntime, maxDowntime: Duration = .milliseconds(300), maxTime: Duration? = nil,
        maxBandwidth: UInt64? = nil, maxThrottle: Int = 0
    ) {
        self.policy = policy
        self.maxDowntime = maxDowntime
        self.maxTime = maxTime
        self.maxBandwidth = maxBandwidth
        self.maxThrottle = maxThrottle
    }
}
