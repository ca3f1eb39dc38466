/// The report, from what the coordinator, the driver and the destination measured.

import Synchronization
import Units

extension SourceCoordinator {
    func report(outcome: MigrationOutcome, failure: MigrationError?) -> MigrationReport {
        var counts = totals
        if let pages { counts.add(pages.progress.counts.counts) }
        let elapsed = migration.meter.elapsed
        let timings = driver?.situation.read { $0.timings }
        let downtime = finishPhases(timings)
        let unique = migration.meter.pagesTotal
        return MigrationReport(
            outcome: outcome, error: outcome == .completed ? nil : failure?.message,
            machine: migration.machine.configuration.name, destination: migration.destination.description,
            session: session?.identifier.description ?? "", lanes: lanes.count, totalSeconds: elapsed.inSeconds,
            setupSeconds: setup.inSeconds, downtimeMilliseconds: outcome == .completed ? downtime : nil,
            stoppedAtNanoseconds: outcome == .completed
                ? driver?.stamps.withLock { $0.lastInstruction?.nanoseconds } : nil,
            phases: phases, destinationLoadMilliseconds: timings.map { Double($0.load) / 1e6 },
            destinationLastPageMilliseconds: timings.map { Double($0.lastPage) / 1e6 },
            rounds: rounds.map(RoundReport.init),
            attempts: attempts, pagesTotal: unique, pagesSent: counts.pages, pagesZero: counts.zeroPages,
            pagesResent: counts.pages - min(counts.pages, unique), bytesSent: counts.bytes,
            downtimeBytes: downtimeBytes,
            digest: outcome == .completed ? agreedDigest.map { "0x" + String($0.rawValue, radix: 16) } : nil,
            bytesPerSecond: elapsed > .zero ? Double(counts.bytes) / elapsed.inSeconds : 0,
            workingSetBytes: migration.meter.workingSetBytes,
            warnings: recordingFailures.isEmpty ? nil : recordingFailures,
            paging: pagingReport(driver?.situation.read { $0.pagingTimes }))
    }

    /// Fills the phases that only the instants of both sides give, and returns the blackout in milliseconds.
    ///
    /// The two hosts' clocks are not compared. The way of COMMIT is half of what the exchange COMMIT, RUNNING took
    /// beyond what the destination did meanwhile.
    private func finishPhases(_ timings: DestinationTimings?) -> Double? {
        guard let stamps = driver?.stamps.withLock({ $0 }), let last = stamps.lastInstruction,
            let final = stamps.finalSaid, let ready = stamps.readyHeard, let commit = stamps.commitSaid
        else { return nil }
        if let begun = stamps.pauseBegun, let paused = stamps.paused {
            phases.pause = (paused - begun).milliseconds
        }
        phases.ready = (ready - final).milliseconds
        phases.commit = (commit - ready).milliseconds
        if let running = stamps.runningHeard {
            let exchange = (running - commit).milliseconds
            let there = timings.map { Double($0.run) / 1e6 } ?? 0
            phases.resume = there + max(exchange - there, 0) / 2
        }
        return (commit - last).milliseconds + phases.resume
    }
}
