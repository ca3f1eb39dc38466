import DirtyLog
import Foundation
import KVM
import Testing
import Units

extension OnRealKVM {
    /// Two trackers that know nothing of each other watch one guest: page tables of the host, and KVM's own log.
    @Suite(.enabled(if: PagemapTracker.isSupported, "needs Linux 6.7 (PAGEMAP_SCAN) and the right to userfaultfd"))
    struct CrossCheckTests {
        enum KVMLog: CaseIterable { case bitmap, ring }

        @Test(arguments: KVMLog.allCases)
        func pagemapAndKVMAgree(log: KVMLog) throws {
            guard log == .bitmap || WriterVM.hasRings else { return }
            let machine = try WriterVM(
                pageCounts: [8192, 777], vcpuCount: 2, ringEntryCount: log == .ring ? 4096 : 0)
            let kvm: any DirtyTracker
            switch log {
            case .bitmap: kvm = try BitmapTracker(vm: machine.vm, regions: machine.regions)
            case .ring:
                let ring = try RingTracker(vm: machine.vm, vcpus: machine.vcpus, regions: machine.regions)
                machine.onRingFull = { [unowned ring] in ring.ringFull() }
                kvm = ring
            }
            let pagemap = try PagemapTracker(regions: machine.regions)
            try pagemap.start(allSet: false)
            try kvm.start(allSet: false)

            var random = SplitMix64(seed: 5)
            var writes = 0
            var pages = 0
            for round in 0..<24 {
                // By turns some pages and (nearly) all of them, on both vCPUs.
                if round % 4 == 3 {
                    try machine.startWritingRandomly(seed: UInt64(round))
                    usleep(40_000)
                    writes += machine.stop()
                } else {
                    let list = (0..<(1 << (round / 2))).map { _ in Int(random.next() % 777) }
                    try machine.write(region: round % 2, pages: list)
                    writes += list.count
                }
                var byKVM = TrackerChecks.emptySets(machine)
                var byPagemap = TrackerChecks.emptySets(machine)
                #expect(try kvm.harvest(into: &byKVM) == .complete)
                #expect(try pagemap.harvest(into: &byPagemap) == .complete)
                let agree = byKVM == byPagemap
                #expect(agree, "round \(round): KVM \(TrackerChecks.describe(byKVM, byPagemap))")
                pages += byKVM.reduce(0) { $0 + $1.count }
                try TrackerChecks.rearmAll(kvm, byKVM)
                try TrackerChecks.rearmAll(pagemap, byPagemap)
            }
            print("pagemap and KVM's \(log) agree on \(pages) pages of \(writes) writes")
            #expect(pages > 8192)
            try kvm.stop()
            try pagemap.stop()
        }
    }
}
