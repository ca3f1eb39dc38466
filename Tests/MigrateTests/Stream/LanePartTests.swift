/// The small parts that lanes and drivers are made of.

import DirtyLog
import Migrate
import Synchronization
import Testing
import Units

@Suite struct LanePartTests {
    @Test func stripeWordsHaveTheRunsOfTheirSet() {
        var generator = Xorshift(seed: 12)
        for _ in 0..<200 {
            let pageCount = 1 + Int(generator.next() % 1500)
            var set = PageSet(pageCount: pageCount)
            var other = PageSet(pageCount: pageCount)
            for page in 0..<pageCount {
                if generator.next() % 3 != 0 { set.insert(PageIndex(page)) }
                if generator.next() % 2 == 0 { other.insert(PageIndex(page)) }
            }
            var found = PageSet(pageCount: pageCount)
            var rest = PageSet(pageCount: pageCount)
            var both = PageSet(pageCount: pageCount)
            for stripe in 0..<(pageCount + pagesPerStripe - 1) / pagesPerStripe {
                let first = PageIndex(stripe * pagesPerStripe)
                var words = StripeWords(set, stripe: stripe)
                let others = StripeWords(other, stripe: stripe)
                var last = -1
                words.forEachRun(from: first) { run in
                    #expect(run.count > 0 && run.start.rawValue > last, "runs are apart and in order")
                    last = run.end.rawValue
                    found.insert(run)
                }
                words.subtracting(others).forEachRun(from: first) { rest.insert($0) }
                words.formIntersection(others)
                words.forEachRun(from: first) { both.insert($0) }
            }
            #expect(found == set)
            var difference = set
            difference.subtract(other)
            #expect(rest == difference)
            var intersection = set
            intersection.formIntersection(other)
            #expect(both == intersection)
        }
    }

    @Test func eachStripeHasOneLaneAndLanesShareFairly() {
        for lanes in 1...16 {
            let plan = LanePlan(laneCount: lanes)
            var load = [Int](repeating: 0, count: lanes)
            for region in 0..<4 {
                for stripe in 0..<160 { load[plan.lane(region: region, stripe: stripe)] += 1 }
            }
            let most = load.max() ?? 0
            #expect(most - (load.min() ?? 0) <= 4, "\(lanes) lanes: \(load)")
        }
        #expect(1...16 ~= LanePlan.defaultLaneCount)
    }

    @Test func aBandwidthCapIsKeptOverAllLanes() async throws {
        try await hostile {
            let limiter = BandwidthLimiter(bytesPerSecond: 10_000_000)
            let begun = MonotonicInstant.now
            let threads = try (0..<2).map { _ in
                try PlainThread(name: "lane") { for _ in 0..<20 { limiter.account(50_000) } }
            }
            threads.forEach { $0.join() }
            // 2 MB at 10 MB/s, less the burst of 20 ms.
            check((MonotonicInstant.now - begun).inSeconds > 0.15)
            limiter.setLimit(bytesPerSecond: nil)
            let free = MonotonicInstant.now
            limiter.account(1 << 40)
            check((MonotonicInstant.now - free).inSeconds < 0.1, "no cap, no pause")
            limiter.setLimit(bytesPerSecond: 1)
            let slow = MonotonicInstant.now
            limiter.account(1 << 40) { (MonotonicInstant.now - slow).inSeconds > 0.1 }
            check((MonotonicInstant.now - slow).inSeconds < 5, "never longer than a cancel may wait")
            // A cap of which one stripe takes longer than a single sleep (it was not held once).
            limiter.setLimit(bytesPerSecond: 4_000_000)
            let stripe = MonotonicInstant.now
            limiter.account(2_000_000)
            check((MonotonicInstant.now - stripe).inSeconds > 0.45)
        }
    }

    @Test func anEventPumpHandlesOneEventAtATimeAndAllOfThem() async throws {
        try await hostile {
            let seen = Mutex<[Int]>([])
            let isInside = Atomic<Bool>(false)
            let overlaps = Atomic<Int>(0)
            let holder = Mutex<EventPump<Int>?>(nil)
            let pump = EventPump<Int> { event in
                if isInside.exchange(true, ordering: .relaxed) { overlaps.add(1, ordering: .relaxed) }
                seen.withLock { $0.append(event) }
                isInside.store(false, ordering: .relaxed)
                // An answer to an event comes after those that wait already, and is not handled inside of it.
                if event < 0 { holder.withLock { $0 }?.submit(1_000_000 - event) }
            }
            holder.withLock { $0 = pump }
            let threads = try (0..<4).map { number in
                try PlainThread(name: "submit") { for i in 0..<1000 { pump.submit(number * 1000 + i) } }
            }
            pump.submit(-1)
            threads.forEach { $0.join() }
            pump.submit(9_999_999)
            holder.withLock { $0 = nil }
            let all = seen.withLock { $0 }
            check(all.count == 4003)
            check(overlaps.load(ordering: .relaxed) == 0)
            check(all.contains(1_000_001))
            for number in 0..<4 {
                let own = all.filter { $0 >= number * 1000 && $0 < (number + 1) * 1000 }
                check(own == own.sorted(), "the order of each thread is kept")
            }
        }
    }

    @Test func timersFireOnceInOrderAndNotWhenCancelled() async throws {
        try await hostile {
            let fired = Mutex<[HandOverTimer]>([])
            let table = try TimerTable { timer in fired.withLock { $0.append(timer) } }
            table.start(.silence, .milliseconds(150))
            table.start(.heartbeat, .milliseconds(50))
            table.start(.ready, .milliseconds(100))
            table.start(.doubt, .milliseconds(20))
            // Moved, and called off.
            table.start(.doubt, .milliseconds(200))
            table.cancel(.ready)
            let deadline = MonotonicInstant.now + .seconds(10)
            while fired.withLock({ $0.count }) < 3, MonotonicInstant.now < deadline { pause(milliseconds: 5) }
            pause(milliseconds: 50)
            check(fired.withLock { $0 } == [.heartbeat, .silence, .doubt])
            table.start(.abandon, .seconds(1000))
            table.end()
        }
    }

    @Test func aMonitorWakesWhoWaitsAndKeepsItsDeadline() async throws {
        try await hostile {
            let monitor = Monitor(0)
            let begun = MonotonicInstant.now
            let nothing: Int? = monitor.wait(until: .now + .milliseconds(50)) { $0 > 0 ? $0 : nil }
            check(nothing == nil)
            check((MonotonicInstant.now - begun).inSeconds >= 0.05)
            let threads = try (0..<4).map { _ in
                try PlainThread(name: "count") { for _ in 0..<1000 { monitor.update { $0 += 1 } } }
            }
            let all: Int? = monitor.wait(until: .now + .seconds(30)) { $0 == 4000 ? $0 : nil }
            check(all == 4000)
            threads.forEach { $0.join() }
        }
    }

    private func pause(milliseconds: Int64) {
        let monitor = Monitor(())
        let _: Void? = monitor.wait(until: .now + .milliseconds(milliseconds)) { _ in nil }
    }
}
