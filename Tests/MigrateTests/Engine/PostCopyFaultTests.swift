/// Post-copy under attack: cut links, dead sources, damaged pages. The model looks at every page before it writes it.

import Glibc
import Logging
import Migrate
import Synchronization
import Testing
import Units

extension HostileTests {
    @Suite(.serialized) struct PostCopyFaultTests {
        /// Cuts every connection that stands, whenever it is asked to.
        final class Cuts: Sendable {
            let count = Atomic<Int>(0)

            func cut() { count.add(1, ordering: .sequentiallyConsistent) }

            func mangler() -> any Mangler {
                let born = count.load(ordering: .sequentiallyConsistent)
                return ByteMangler { [self] _, bytes in
                    guard count.load(ordering: .sequentiallyConsistent) != born else { return true }
                    bytes = []
                    return false
                }
            }
        }

        /// So slow that a test can do something meanwhile.
        static func slow(_ mode: MigrationMode = .postCopy) -> MigrationOptions {
            MigrationOptions(
                mode: mode, lanes: 2, limits: MigrationLimits(maxDowntime: .seconds(5), maxBandwidth: 12 << 20),
                timeouts: Hostile.timeouts)
        }

        private static func waitUntil(_ seconds: Double = 60, _ body: () -> Bool) -> Bool {
            let end = MonotonicInstant.now + .seconds(seconds)
            while MonotonicInstant.now < end {
                if body() { return true }
                usleep(2000)
            }
            return body()
        }

        /// Ten cuts of everything in one migration, each after some more pages: it goes on each time, and the guest is whole.
        @Test(.timeLimit(.minutes(3))) func tenCutsDoNotHurt() async throws {
            try await hostile {
                let source = try PostCopyTests.source(mebibytes: 24, share: 1)
                let receiving = try Receiving(builder: PostCopyTests.builder())
                let cuts = Cuts()
                let proxy = try HostileProxy(to: receiving.endpoint) { _ in cuts.mangler() }
                let outgoing = OutgoingMigration(
                    machine: source, destination: proxy.endpoint, options: Self.slow(), logger: receiving.log.logger)
                let isOver = Atomic<Bool>(false)
                try withExtendedLifetime(isOver) {
                    let cutter = try PlainThread(name: "cutter") {
                        for turn in 1...10 {
                            let pages = turn * 24 * 256 / 12
                            _ = Self.waitUntil {
                                outgoing.progress.phase == .ended
                                    || (receiving.machine?.paging?.installed.load(ordering: .relaxed) ?? 0) >= pages
                            }
                            cuts.cut()
                        }
                    }
                    let report = outgoing.run()
                    cutter.join()
                    print(report.paging as Any)
                    try PostCopyTests.verify(report, source, receiving)
                    check(report.paging?.interruptions ?? 0 >= 8, "\(String(describing: report.paging))")
                }
                receiving.end()
                proxy.close()
            }
        }

        /// The source dies after some pages: what is missing stays missing, is never a page of zeros, and is told.
        @Test(.timeLimit(.minutes(3)), arguments: [1, 700, 3000]) func aDeadSourceIsNoZeroPage(_ pages: Int)
            async throws
        {
            try await hostile {
                let source = try PostCopyTests.source(mebibytes: 24, share: 1)
                let receiving = try Receiving(builder: PostCopyTests.builder())
                let proxy = try HostileProxy(to: receiving.endpoint) { _ in nil }
                let outgoing = OutgoingMigration(
                    machine: source, destination: proxy.endpoint, options: Self.slow(), logger: receiving.log.logger)
                let sender = try PlainThread(name: "sender") { _ = outgoing.run() }
                check(
                    Self.waitUntil {
                        receiving.machine?.isRunning == true
                            && receiving.machine?.paging?.installed.load(ordering: .relaxed) ?? 0 >= pages
                    }, "no page came:\n\(receiving.log.text)")
                proxy.close()
                let machine = try require(receiving.machine)
                check(
                    Self.waitUntil { receiving.incoming.progress?.doubt?.contains("pages") == true },
                    "nobody says that the VM waits:\n\(receiving.log.text)")
                check(receiving.incoming.progress?.pagesMissing ?? 0 > 0)
                check(machine.wrongPages.load(ordering: .relaxed) == 0, "the guest saw a page that is not its own")
                check(!receiving.incoming.isSettled)
                // The source may not run by itself any more, and a person may decide.
                check(Self.waitUntil { outgoing.progress.phase == .doubt }, "the source is not in doubt")
                check(!source.isRunning)
                check(outgoing.resolve(.dropHere(copyMayBeLost: true)) == nil)
                sender.join()
                check(machine.wrongPages.load(ordering: .relaxed) == 0, "the guest saw a page that is not its own")
                receiving.incoming.close()
                // Only so that its thread ends: it will see zeros now.
                try machine.paging?.disarm()
                _ = try machine.pause()
                receiving.end()
            }
        }

        /// The control connection ends before each of its records once: one side runs, and no page is lost.
        @Test(.timeLimit(.minutes(5)), arguments: [HostileFlow.toDestination, .toSource])
        func theControlLinkBreaksAnywhere(_ direction: HostileFlow) async throws {
            try await hostile {
                for number in 1..<(direction == .toDestination ? 12 : 6) {
                    let source = try PostCopyTests.source(mebibytes: 6, share: 0.5)
                    let receiving = try Receiving(builder: PostCopyTests.builder())
                    let wanted: Flow.Direction = direction == .toDestination ? .toDestination : .toSource
                    let proxy = try HostileProxy(to: receiving.endpoint) { flow in
                        flow.connection == 0 && flow.direction == wanted ? RecordMangler.end(before: number) : nil
                    }
                    let outgoing = OutgoingMigration(
                        machine: source, destination: proxy.endpoint,
                        options: MigrationOptions(
                            mode: .postCopy, lanes: 1, limits: MigrationLimits(maxDowntime: .seconds(5)),
                            timeouts: Hostile.timeouts), logger: receiving.log.logger)
                    let report = outgoing.run()
                    let there = receiving.machine?.isRunning ?? false
                    check(
                        source.isRunning != there,
                        "\(number): here \(source.isRunning), there \(there)\n\(receiving.log.text)")
                    check((report.outcome == .completed) == there, "\(number): \(report.outcome)")
                    if there {
                        try PostCopyTests.verify(report, source, receiving)
                    } else {
                        _ = try source.pause()
                        check(source.wrongPageCount() == 0 && source.wrongPages.load(ordering: .relaxed) == 0)
                    }
                    receiving.end()
                    proxy.close()
                }
            }
        }

        enum HostileFlow: Sendable { case toDestination, toSource }

        /// A page that was changed on its way is not installed; the lanes are opened anew, and it comes again.
        @Test(.timeLimit(.minutes(2))) func aDamagedPageIsSentAgain() async throws {
            try await hostile {
                let source = try PostCopyTests.source(mebibytes: 12, share: 1)
                let receiving = try Receiving(builder: PostCopyTests.builder())
                // 0 is the control connection, 1 the lane, 2 the urgent lane, 3 pushes.
                let proxy = try HostileProxy(to: receiving.endpoint) { flow in
                    flow.connection == 3 && flow.direction == .toDestination
                        ? ByteMangler.flip(bit: 3, at: 300_000) : nil
                }
                let outgoing = OutgoingMigration(
                    machine: source, destination: proxy.endpoint,
                    options: MigrationOptions(
                        mode: .postCopy, lanes: 1, limits: MigrationLimits(maxDowntime: .seconds(5)),
                        timeouts: Hostile.timeouts), logger: receiving.log.logger)
                let report = outgoing.run()
                try PostCopyTests.verify(report, source, receiving)
                check(report.paging?.interruptions == 1, "\(String(describing: report.paging))\n\(receiving.log.text)")
                receiving.end()
                proxy.close()
            }
        }

        /// Pages outside of memory, made by somebody who can make checksums.
        @Test(.timeLimit(.minutes(2)), arguments: [UInt8(0x7F), 0]) func aPageOutsideOfMemoryIsRefused(_ region: UInt8)
            async throws
        {
            try await hostile {
                let source = try PostCopyTests.source(mebibytes: 12, share: 1)
                let receiving = try Receiving(builder: PostCopyTests.builder())
                let proxy = try HostileProxy(to: receiving.endpoint) { flow in
                    guard flow.connection == 3, flow.direction == .toDestination else { return nil }
                    return RecordMangler { mangler, number, piece in
                        guard number == 5, piece.recordType == 2 else { return .pass(piece) }
                        return .pass(
                            mangler.reforge(piece) { record in
                                record[24] = region
                                record[35] = 0x7F
                            })
                    }
                }
                let outgoing = OutgoingMigration(
                    machine: source, destination: proxy.endpoint,
                    options: MigrationOptions(
                        mode: .postCopy, lanes: 1, limits: MigrationLimits(maxDowntime: .seconds(5)),
                        timeouts: Hostile.timeouts), logger: receiving.log.logger)
                let report = outgoing.run()
                try PostCopyTests.verify(report, source, receiving)
                check(receiving.log.text.contains("outside of the VM's memory"), receiving.log.text)
                receiving.end()
                proxy.close()
            }
        }

        /// Who may not page says so before anything moves.
        @Test(.timeLimit(.minutes(1)), arguments: [MigrationMode.postCopy, .hybrid])
        func whoCannotPageRefuses(_ mode: MigrationMode) async throws {
            try await hostile {
                let source = try PostCopyTests.source(mebibytes: 6)
                var builder = PostCopyTests.builder()
                builder.pagingFailure = Refusal(.incompatible, "no userfaultfd for you")
                let receiving = try Receiving(builder: builder)
                let report = OutgoingMigration(
                    machine: source, destination: receiving.endpoint, options: Self.slow(mode),
                    logger: receiving.log.logger
                ).run()
                check(
                    report.outcome == .refused && report.error?.contains("no userfaultfd for you") == true, "\(report)")
                check(report.pagesSent == 0 && source.isRunning)
                receiving.end()
            }
        }

        /// A guest that writes faster than the link carries moves all the same, and says why it went before its pages.
        @Test(.timeLimit(.minutes(2))) func hybridSwitchesByItself() async throws {
            try await hostile {
                let source = try PostCopyTests.source(mebibytes: 24, share: 1, pagesPerSecond: 40_000)
                let receiving = try Receiving(builder: PostCopyTests.builder())
                let limits = MigrationLimits(maxDowntime: .milliseconds(5), maxBandwidth: 40 << 20)
                let report = OutgoingMigration(
                    machine: source, destination: receiving.endpoint,
                    options: MigrationOptions(mode: .hybrid, lanes: 2, limits: limits, timeouts: Hostile.timeouts),
                    logger: receiving.log.logger
                ).run()
                print(report.paging as Any)
                try PostCopyTests.verify(report, source, receiving)
                check(report.paging?.reason?.contains("pre-copy") == true, "\(report)")
                check(report.pagesSent <= report.pagesTotal * 5 / 2, "\(report)")
                receiving.end()
            }
        }

        /// A guest that does not write goes the ordinary way.
        @Test(.timeLimit(.minutes(1))) func hybridStaysWherePreCopyIsGood() async throws {
            try await hostile {
                let source = try PostCopyTests.source(mebibytes: 12, pagesPerSecond: 0)
                let receiving = try Receiving(builder: PostCopyTests.builder(pagesPerSecond: 0))
                let report = OutgoingMigration(
                    machine: source, destination: receiving.endpoint,
                    options: MigrationOptions(mode: .hybrid, lanes: 2, timeouts: Hostile.timeouts),
                    logger: receiving.log.logger
                ).run()
                try PostCopyTests.verify(report, source, receiving)
                check(report.paging == nil && report.digest != nil, "\(report)")
                receiving.end()
            }
        }

        /// `switch` in the middle of the first round.
        @Test(.timeLimit(.minutes(2))) func aPersonSwitches() async throws {
            try await hostile {
                let source = try PostCopyTests.source(mebibytes: 24, share: 1)
                let receiving = try Receiving(builder: PostCopyTests.builder())
                let outgoing = OutgoingMigration(
                    machine: source, destination: receiving.endpoint, options: Self.slow(.hybrid),
                    logger: receiving.log.logger)
                let objections = Mutex<[SwitchObjection?]>([])
                let person = try PlainThread(name: "person") {
                    _ = Self.waitUntil { outgoing.progress.pagesSent > 1000 }
                    let answer = outgoing.switchToPostCopy()
                    objections.withLock { $0.append(answer) }
                }
                let report = outgoing.run()
                person.join()
                print(report.paging as Any)
                try PostCopyTests.verify(report, source, receiving)
                check(objections.withLock { $0.count == 1 && $0[0] == nil })
                check(report.paging?.reason == "the switch was asked for", "\(report)")
                let left = report.paging?.pagesLeft ?? 0
                check(left > 1000 && left < report.pagesTotal, "\(left) of \(report.pagesTotal)")
                receiving.end()
            }
        }
    }
}
