/// Expectations on plain threads. Swift Testing knows which test an `#expect` belongs to by the task that it runs in;
/// these tests block, so they run on threads of their own, and their findings are handed over at the end.

import Migrate
import Synchronization
import Testing

final class Findings: Sendable {
    private let all = Mutex<[(String, SourceLocation)]>([])

    /// The findings of the test that runs on this thread.
    @TaskLocal static var current: Findings?

    func add(_ comment: String, _ place: SourceLocation) { all.withLock { $0.append((comment, place)) } }

    /// Of the test's task.
    func report() {
        for (comment, place) in all.withLock({ $0 }) { Issue.record(Comment(rawValue: comment), sourceLocation: place) }
    }
}

/// `#expect` for `hostile` bodies.
func check(
    _ condition: Bool, _ comment: @autoclosure () -> String = "not as expected",
    sourceLocation: SourceLocation = #_sourceLocation
) {
    if !condition { Findings.current?.add(comment(), sourceLocation) }
}

/// `#require` for `hostile` bodies.
func require<Value>(_ value: Value?, _ comment: String = "a value is missing") throws -> Value {
    guard let value else { throw MissingValue(description: comment) }
    return value
}

private struct MissingValue: Error, CustomStringConvertible { var description: String }

/// Runs a blocking test on a thread of its own.
func hostile(_ body: @escaping @Sendable () throws -> Void) async throws {
    let findings = Findings()
    defer { findings.report() }
    try await onThread { try Findings.$current.withValue(findings) { try body() } }
}

/// One at a time: their time limits are those of a machine that does nothing else.
@Suite(.serialized) enum HostileTests {}
