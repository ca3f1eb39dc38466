/// What `migratectl send --json` says at the end (docs/openapi.yaml: MigrationStatus and its report).

public struct MigrationFigures: Sendable {
    /// The exit status of `send` when the migration was cancelled, and of a process whose VM moved (docs/cli.md).
    public static let cancelledStatus: Int32 = 11
    public static let movedStatus: Int32 = 20

    public let totalMilliseconds: Double
    public let downtimeMilliseconds: Double
    /// CLOCK_MONOTONIC at the last guest instruction of the source.
    public let stoppedAtNanoseconds: Double?
    /// The downtime split up, by name.
    public let phases: [String: Double]
    /// The part of the downtime that has nothing to do with memory: without the last dirty log and the last pages.
    public let fixedMilliseconds: Double
    public let bytesSent: Double
    /// Pages that were not sent as zeros.
    public let pagesWithContents: Double?
    public let rounds: Int
    public let attempts: Int
    /// The digest that both sides agreed on, if they did.
    public let digest: String?

    /// Takes the last JSON value that the command printed.
    public init(_ output: String) throws {
        guard let last = output.split(separator: "\n").last else {
            throw HarnessError("migratectl send printed nothing")
        }
        let status = try JSON.parse(String(last))
        guard let report = status["report"], let total = report["totalSeconds"]?.double,
            let downtime = report["downtimeMilliseconds"]?.double, case .object(let phases)? = report["phases"]
        else { throw HarnessError("migratectl send printed no report: \(last.prefix(300))") }
        totalMilliseconds = total * 1000
        downtimeMilliseconds = downtime
        stoppedAtNanoseconds = report["stoppedAtNanoseconds"]?.double
        self.phases = phases.compactMapValues(\.double)
        let memory = ["lastLog", "residue"].compactMap { phases[$0]?.double }.reduce(0, +)
        fixedMilliseconds = downtime - memory - (report["destinationLastPageMilliseconds"]?.double ?? 0)
        bytesSent = report["bytesSent"]?.double ?? 0
        if let pages = report["pagesSent"]?.double, let zero = report["pagesZero"]?.double {
            pagesWithContents = pages - zero
        } else {
            pagesWithContents = nil
        }
        rounds = report["rounds"]?.array?.count ?? 0
        attempts = report["attempts"]?.double.map { Int($0) } ?? 0
        digest = report["digest"]?.string
    }
}
