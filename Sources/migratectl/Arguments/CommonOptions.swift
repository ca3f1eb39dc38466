/// Options that several commands share.

import ArgumentParser
import Control

struct OutputOptions: ParsableArguments {
    @Flag(help: "Print the result as JSON.")
    var json = false
}

/// The VM that a command is about.
struct VMArgument: ParsableArguments {
    @Argument(help: "The VM's name, as migratectl ps shows it.", completion: .shellCommand("migratectl ps --names"))
    var name: String

    func validate() throws {
        do { _ = try VMName(existing: name) } catch { throw ValidationError(error.message) }
    }

    /// A client of the VM's process. Whether it runs shows with the first call.
    func client() throws -> ControlClient { try ControlClient(VMName(existing: name), in: .standard()) }
}

/// How well a migration has to go.
struct LimitOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            "How long the guest may stand still.", valueName: "duration"),
        transform: parseMilliseconds)
    var maxDowntime: Double?

    @Option(
        help: ArgumentHelp("How long the whole migration may take (none: as long as it helps).", valueName: "duration"),
        transform: parseMillisecondsOrNone)
    var maxTime: Double?

    @Option(
        help: ArgumentHelp("What it may send a second: 100M, 1Gbit, none.", valueName: "rate"), transform: parseRate)
    var maxBandwidth: UInt64?

    @Option(
        help: "What matters most: \(MigrationLimitsPayload.policies.joined(separator: ", ")).",
        completion: .list(MigrationLimitsPayload.policies))
    var policy: String?

    func validate() throws {
        do { try payload.validate() } catch { throw ValidationError(error.message) }
    }

    var payload: MigrationLimitsPayload {
        MigrationLimitsPayload(
            policy: policy, maxDowntimeMilliseconds: maxDowntime, maxBytesPerSecond: maxBandwidth,
            maxTimeMilliseconds: maxTime)
    }
}
