import DirtyLog
import Testing
import Units

/// Page sets against a naive model: an array of Booleans that does every operation page by page.
@Suite struct PageSetTests {
    /// Sizes at and around word borders, and one of several stripes.
    static let pageCounts = [0, 1, 63, 64, 65, 127, 128, 1000, 5 * 512 + 3]

    @Test(arguments: pageCounts)
    func agreesWithModel(pageCount: Int) {
        var random = SplitMix64(seed: UInt64(pageCount) + 1)
        var set = PageSet(pageCount: pageCount)
        var model = Model(pageCount: pageCount)
        for step in 0..<400 {
            randomChange(&set, &model, &random)
            let range = random.run(in: pageCount)
            #expect(set.count(in: range) == model.count(in: range), "step \(step)")
            #expect(set.contains(range) == (model.count(in: range) == range.count))
            #expect(set.intersects(range) == (model.count(in: range) > 0))
            var runs: [PageRun] = []
            set.forEachRun(in: range) { runs.append($0) }
            #expect(runs == model.runs(in: range), "step \(step)")
            #expect(set.nextRun(in: range) == model.runs(in: range).first)
        }
        check(set, model)
    }

    @Test(arguments: pageCounts)
    func algebraAgreesWithModel(pageCount: Int) {
        var random = SplitMix64(seed: UInt64(pageCount) + 77)
        for _ in 0..<100 {
            var (a, b) = (PageSet(pageCount: pageCount), PageSet(pageCount: pageCount))
            var (ma, mb) = (Model(pageCount: pageCount), Model(pageCount: pageCount))
            for _ in 0..<12 {
                randomChange(&a, &ma, &random)
                randomChange(&b, &mb, &random)
            }
            #expect(a.isSubset(of: b) == zip(ma.pages, mb.pages).allSatisfy { !$0 || $1 })
            switch random.next() % 3 {
            case 0:
                a.formUnion(b)
                ma.pages = zip(ma.pages, mb.pages).map { $0 || $1 }
            case 1:
                a.subtract(b)
                ma.pages = zip(ma.pages, mb.pages).map { $0 && !$1 }
            default:
                a.formIntersection(b)
                ma.pages = zip(ma.pages, mb.pages).map { $0 && $1 }
            }
            check(a, ma)
        }
    }

    @Test(arguments: pageCounts)
    func wordsAgreeWithModel(pageCount: Int) {
        var random = SplitMix64(seed: UInt64(pageCount) + 99)
        var set = PageSet(pageCount: pageCount)
        var model = Model(pageCount: pageCount)
        for _ in 0..<200 {
            randomChange(&set, &model, &random)
            let first = set.wordCount == 0 ? 0 : Int(random.next() % UInt64(set.wordCount))
            let length = set.wordCount == 0 ? 0 : Int(random.next() % UInt64(set.wordCount - first)) + 1
            let firstPage = PageIndex(first * 64)
            var words = (0..<length).map { _ in random.next() & random.next() }
            let choice = random.next() % 5
            words.withUnsafeMutableBufferPointer { buffer in
                switch choice {
                case 0: set.replaceWords(from: firstPage, with: UnsafeBufferPointer(buffer))
                case 1: set.insertWords(from: firstPage, of: UnsafeBufferPointer(buffer))
                case 2: set.removeWords(from: firstPage, of: UnsafeBufferPointer(buffer))
                case 3: set.copyWords(from: firstPage, to: buffer)
                default: set.takeWords(from: firstPage, to: buffer)
                }
            }
            for page in first * 64..<min((first + length) * 64, pageCount) {
                let bit = words[page / 64 - first] >> UInt64(page % 64) & 1 != 0
                switch choice {
                case 0: model.pages[page] = bit
                case 1: model.pages[page] = model.pages[page] || bit
                case 2: model.pages[page] = model.pages[page] && !bit
                case 3: #expect(model.pages[page] == bit)
                default:
                    #expect(model.pages[page] == bit)
                    model.pages[page] = false
                }
            }
            check(set, model)
        }
    }

    @Test func fullSetHasNoBitsBeyondTheRegion() {
        for pageCount in Self.pageCounts {
            let full = PageSet(pageCount: pageCount, full: true)
            #expect(full.count == pageCount)
            #expect(Array(full.runs) == (pageCount == 0 ? [] : [full.allPages]))
            #expect(full.words.reduce(0) { $0 + $1.nonzeroBitCount } == pageCount)
        }
    }

    @Test func withWordsShowsTheStripe() {
        var set = PageSet(pageCount: 1200)
        set.insert(PageRun(start: PageIndex(510), count: 4))
        let stripe = set.withWords(covering: PageRun(start: PageIndex(512), count: 512)) { Array($0) }
        #expect(stripe == [3, 0, 0, 0, 0, 0, 0, 0])
        let tail = set.withWords(covering: PageRun(start: PageIndex(1024), count: 176)) { $0.count }
        #expect(tail == 3)
    }

    @Test func questionsAboutPagesOutsideHaveAnAnswer() {
        let set = PageSet(pageCount: 100, full: true)
        #expect(!set.contains(PageIndex(100)))
        #expect(!set.contains(PageIndex(-1)))
        #expect(!set.contains(PageRun(start: PageIndex(90), count: 11)))
        #expect(set.count(in: PageRun(start: PageIndex(90), count: .max)) == 10)
        #expect(set.count(in: PageRun(start: PageIndex(-5), count: 10)) == 5)
        #expect(set.nextRun(in: PageRun(start: PageIndex(200), count: 10)) == nil)
        #expect(set.count(in: PageRun(start: PageIndex(5), count: -1)) == 0)
    }

    @Test func insertAndRemoveSayWhetherTheyChanged() {
        var set = PageSet(pageCount: 70)
        let changes = [
            set.insert(PageIndex(69)), set.insert(PageIndex(69)), set.remove(PageIndex(69)), set.remove(PageIndex(69)),
        ]
        #expect(changes == [true, false, true, false])
        #expect(set.isEmpty)
    }

    // MARK: The model

    struct Model {
        var pages: [Bool]
        init(pageCount: Int) { pages = Array(repeating: false, count: pageCount) }

        func count(in run: PageRun) -> Int { pages[run.start.rawValue..<run.end.rawValue].count { $0 } }

        func runs(in range: PageRun) -> [PageRun] {
            var result: [PageRun] = []
            for page in range.start.rawValue..<range.end.rawValue where pages[page] {
                if let last = result.last, last.end.rawValue == page {
                    result[result.count - 1].count += 1
                } else {
                    result.append(PageRun(start: PageIndex(page), count: 1))
                }
            }
            return result
        }
    }

    private func check(_ set: PageSet, _ model: Model) {
        let all = set.allPages
        #expect(set.count == model.count(in: all))
        #expect(set.isEmpty == !model.pages.contains(true))
        #expect(Array(set.runs) == model.runs(in: all))
        var walked: [PageRun] = []
        set.forEachRun { walked.append($0) }
        #expect(walked == model.runs(in: all))
        for page in 0..<model.pages.count { #expect(set.contains(PageIndex(page)) == model.pages[page]) }
        // No bits beyond the region: they would be sent as pages that do not exist.
        #expect(set.words.reduce(0) { $0 + $1.nonzeroBitCount } == set.count)
    }

    private func randomChange(_ set: inout PageSet, _ model: inout Model, _ random: inout SplitMix64) {
        let run = random.run(in: set.pageCount)
        switch random.next() % 4 {
        case 0:
            set.insert(run)
            for page in run.start.rawValue..<run.end.rawValue { model.pages[page] = true }
        case 1:
            set.remove(run)
            for page in run.start.rawValue..<run.end.rawValue { model.pages[page] = false }
        case 2:
            for page in stride(from: run.start.rawValue, to: run.end.rawValue, by: 7) {
                let changed = set.insert(PageIndex(page))
                #expect(changed == !model.pages[page])
                model.pages[page] = true
            }
        default:
            for page in stride(from: run.start.rawValue, to: run.end.rawValue, by: 5) {
                let changed = set.remove(PageIndex(page))
                #expect(changed == model.pages[page])
                model.pages[page] = false
            }
        }
    }
}
