/// Whole migrations in post-copy between two model machines, over real sockets and a real userfaultfd. The model looks at
/// every page before it writes it.

import Glibc
import KVM
import Logging
import Migrate
import Synchronization
import Testing
import Units

extension HostileTests {
    @Suite(.serialized) struct PostCopyTests {
        /// A migration under way, with both ends at hand.
        struct Moving {
            let source: ModelMachine
            let receiving: Receiving
            let outgoing: OutgoingMigration
        }

        static func source(
            mebibytes: UInt64 = 32, share: Double = 0.8, pagesPerSecond: Int = 20_000,
            backing: MemoryBacking = .anonymous
        ) throws -> ModelMachine {
            let machine = ModelMachine(
                configuration: .model(mebibytes: mebibytes), pagesPerSecond: pagesPerSecond, backing: backing,
                checks: true)
            machine.fillChecked(share: share)
            _ = try machine.resume()
            return machine
        }

        static func builder(_ backing: MemoryBacking = .anonymous, pagesPerSecond: Int = 20_000) -> ModelBuilder {
            ModelBuilder(pagesPerSecond: pagesPerSecond, backing: backing, checks: true)
        }

        /// What must hold at the end of a migration that went well.
        static func verify(
            _ report: MigrationReport, _ source: ModelMachine, _ receiving: Receiving,
            sourceLocation: SourceLocation = #_sourceLocation
        ) throws {
            check(
                report.outcome == .completed, "\(report.error ?? "")\n\(receiving.log.text)",
                sourceLocation: sourceLocation)
            guard let moved = receiving.machine else {
                return check(false, "no machine", sourceLocation: sourceLocation)
            }
            check(!source.isRunning, "the source runs", sourceLocation: sourceLocation)
            check(moved.isRunning, "the destination does not run", sourceLocation: sourceLocation)
            _ = try moved.pause()
            check(
                moved.wrongPages.load(ordering: .relaxed) == 0, "the guest saw wrong pages",
                sourceLocation: sourceLocation)
            check(moved.wrongPageCount() == 0, "pages are wrong", sourceLocation: sourceLocation)
            check(moved.counter >= source.counter, "it went back in time", sourceLocation: sourceLocation)
        }

        @Test(
            .timeLimit(.minutes(2)),
            arguments: [
                (MigrationMode.postCopy, MemoryBacking.anonymous, 1), (.postCopy, .anonymous, 3),
                (.postCopy, .memfd, 2),
            ])
        func theVMGoesFirst(_ mode: MigrationMode, _ backing: MemoryBacking, _ lanes: Int) async throws {
            try await hostile {
                let source = try Self.source(backing: backing)
                let receiving = try Receiving(builder: Self.builder(backing))
                let outgoing = OutgoingMigration(
                    machine: source, destination: receiving.endpoint,
                    options: MigrationOptions(mode: mode, lanes: lanes, timeouts: Hostile.timeouts),
                    logger: receiving.log.logger)
                let report = outgoing.run()
                print(report.paging as Any, report.downtimeMilliseconds ?? -1, report.phases)
                try Self.verify(report, source, receiving)
                let paging = try require(report.paging)
                check(paging.pagesLeft == report.pagesTotal, "\(paging)")
                check(paging.pagesDemanded + paging.pagesPushed == paging.pagesLeft, "\(paging)")
                check(report.rounds.isEmpty)
                receiving.end()
            }
        }
    }
}
