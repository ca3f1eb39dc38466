import DirtyLog
import Foundation
import Synchronization
import Testing
import Units

@Suite struct AtomicPageSetTests {
    @Test(arguments: [1, 64, 65, 4096, 4097, 20_001])
    func drainsWhatWasInserted(pageCount: Int) {
        var random = SplitMix64(seed: UInt64(pageCount))
        let atomic = AtomicPageSet(pageCount: pageCount)
        var expected = PageSet(pageCount: pageCount)
        var drained = PageSet(pageCount: pageCount)
        for step in 0..<200 {
            let run = random.run(in: pageCount)
            atomic.insert(run)
            expected.insert(run)
            if step % 20 == 19 {
                atomic.drain(into: &drained)
                #expect(drained == expected)
                drained.removeAll()
                expected.removeAll()
            }
        }
        atomic.drain(into: &drained)
        #expect(drained.isEmpty)
    }

    /// Three threads insert each page once while another drains: a page that a drain lost would never come again.
    @Test func nothingIsLostBetweenThreads() {
        let pageCount = 60 * 4096 + 17
        let atomic = AtomicPageSet(pageCount: pageCount)
        let running = Atomic<Int>(3)
        for index in 0..<3 {
            Thread.detachNewThread {
                // Neighbouring pages fall to different threads, so that they meet in the same words.
                for page in stride(from: index, to: pageCount, by: 3) { atomic.insert(PageIndex(page)) }
                running.subtract(1, ordering: .sequentiallyConsistent)
            }
        }
        var drained = PageSet(pageCount: pageCount)
        while running.load(ordering: .sequentiallyConsistent) > 0 { atomic.drain(into: &drained) }
        atomic.drain(into: &drained)
        #expect(drained == PageSet(pageCount: pageCount, full: true))
    }
}
