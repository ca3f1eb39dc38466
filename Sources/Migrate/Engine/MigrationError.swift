/// Why a migration ended before the VM ran at the destination, inside the engine. People see it in the report.

struct MigrationError: Error, CustomStringConvertible, Sendable {
    var outcome: MigrationOutcome
    var message: String

    init(_ outcome: MigrationOutcome, _ message: String) {
        self.outcome = outcome
        self.message = message
    }

    var description: String { message }
}
