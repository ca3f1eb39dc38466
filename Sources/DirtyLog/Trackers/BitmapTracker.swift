/// The default tracker: KVM's dirty bitmap, cleared as late as possible.

import KVM
import Synchronization
import Units

/// Tracks by `KVM_GET_DIRTY_LOG` and, where the host has it, `KVM_CLEAR_DIRTY_LOG`.
///
/// Why late clearing pays: a page that was harvested stays writable for the guest until just before it is read, so
/// writes in between cost nothing, and they are in what is read anyway.
public final class BitmapTracker: DirtyTracker {
    /// How KVM protects pages; each is better than the one after it.
    public enum Mode: Int, Sendable, CaseIterable, Comparable {
        /// The log comes back from KVM and is cleared and protected at once (`KVM_GET_DIRTY_LOG` alone).
        case legacy
        /// Pages are protected when logging starts, and again when this tracker says so (`KVM_CLEAR_DIRTY_LOG`).
        case manual
        /// Every page counts as dirty at the start and is protected first when it is sent first: starting is cheap, and
        /// huge mappings are broken up a chunk at a time.
        case manualInitiallySet

        public static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }

        /// The bits of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.
        var flags: UInt64 {
            switch self {
            case .legacy: 0
            case .manual: 1
            case .manualInitiallySet: 3
            }
        }
    }

    /// The mode in use.
    public let mode: Mode
    private let vm: VirtualMachine
    private let regions: [TrackedRegion]
    private let written: [AtomicPageSet]
    private let state = Mutex(State())

    private struct State: ~Copyable {
        var isLogging = false
        /// Whether the next harvest reports every page, besides what KVM says.
        var reportsEverything = false
        /// Where KVM puts a log, kept from harvest to harvest.
        var log: [UInt64] = []
    }

    /// Pages that one ioctl protects at most: it holds the VM's memory lock meanwhile, about 0.5 ms for 16384 pages.
    static let pagesPerClear = 16384

    /// A tracker of these regions, not started. It takes the best mode up to `best` that the host offers.
    public init(vm: VirtualMachine, regions: [TrackedRegion], best: Mode = .manualInitiallySet) throws {
        guard vm.dirtyRingEntryCount == 0 else {
            throw DirtyLogError(
                .unsupported, "This VM has dirty rings, which exclude the bitmap: track it with its rings.")
        }
        let offered = UInt64(try vm.check(.manualDirtyLogProtect))
        let usable = Mode.allCases.filter { $0 <= best && $0.flags & ~offered == 0 }
        mode = usable.max() ?? .legacy
        // Said also when it is zero: a tracker before this one may have asked for more.
        if offered != 0 { try vm.enable(.manualDirtyLogProtect, argument: mode.flags) }
        self.vm = vm
        self.regions = regions
        written = regions.map { AtomicPageSet(pageCount: $0.pageCount) }
    }

    deinit {
        let isLogging = state.withLock { $0.isLogging }
        if isLogging { try? vm.setLogging(false, of: regions) }
    }

    public func start(allSet: Bool) throws {
        try state.withLock { state in
            guard !state.isLogging else {
                throw DirtyLogError(.wrongState, "The dirty log is on already: stop it before it is started again.")
            }
            // What the VMM wrote before now is not asked for.
            for index in regions.indices {
                var old = PageSet(pageCount: regions[index].pageCount)
                written[index].drain(into: &old)
            }
            try vm.setLogging(true, of: regions)
            state.isLogging = true
            state.reportsEverything = allSet
            if mode == .manualInitiallySet, !allSet {
                do {
                    try clearEverything()
                } catch {
                    try? vm.setLogging(false, of: regions)
                    state.isLogging = false
                    throw error
                }
            }
        }
    }

    public func harvest(into sets: inout [PageSet]) throws -> HarvestResult {
        checkSets(sets, for: regions)
        try state.withLock { state in
            guard state.isLogging else {
                throw DirtyLogError(.wrongState, "The dirty log is off: start it before harvesting.")
            }
            for (index, region) in regions.enumerated() {
                let wordCount = sets[index].wordCount
                if state.log.count < wordCount { state.log = Array(repeating: 0, count: wordCount) }
                try unsafe state.log.withUnsafeMutableBufferPointer { buffer in
                    let log = unsafe UnsafeMutableBufferPointer(rebasing: buffer[..<wordCount])
                    try unsafe vm.getDirtyLog(slot: region.slot, into: log)
                    unsafe sets[index].insertWords(from: PageIndex(0), of: UnsafeBufferPointer(log))
                }
                // After the log: a page that is in neither was written by nobody before this harvest began.
                written[index].drain(into: &sets[index])
                if state.reportsEverything { sets[index].insertAll() }
            }
            state.reportsEverything = false
        }
        return .complete
    }

    public func rearm(region: Int, firstPage: PageIndex, words: UnsafeBufferPointer<UInt64>) throws {
        guard mode != .legacy else { return }
        precondition(firstPage.rawValue & 63 == 0, "words start at multiples of 64 pages")
        let (slot, pageCount) = (regions[region].slot, regions[region].pageCount)
        let wordsPerClear = Self.pagesPerClear / 64
        var index = 0
        while index < words.count {
            // Words without a bit need no call; a call is one stretch of words.
            guard unsafe words[index] != 0 else {
                index += 1
                continue
            }
            let limit = min(index + wordsPerClear, words.count)
            var end = limit
            while unsafe words[end - 1] == 0 { end -= 1 }
            let first = firstPage.rawValue + index * 64
            precondition(first < pageCount, "words outside of the region")
            try unsafe vm.clearDirtyLog(
                slot: slot, firstPage: PageIndex(first), pageCount: min((end - index) * 64, pageCount - first),
                bitmap: UnsafeBufferPointer(rebasing: words[index..<end]))
            index = limit
        }
    }

    public func markWritten(region: Int, run: PageRun) {
        written[region].insert(run)
    }

    public func stop() throws {
        try state.withLock { state in
            guard state.isLogging else { return }
            try vm.setLogging(false, of: regions)
            state.isLogging = false
            state.log = []
        }
    }

    /// Protects every page: a log that begins with all bits set shows nothing until its bits are cleared.
    private func clearEverything() throws {
        let ones = [UInt64](repeating: .max, count: Self.pagesPerClear / 64)
        for (index, region) in regions.enumerated() {
            for first in stride(from: 0, to: region.pageCount, by: Self.pagesPerClear) {
                let wordCount = (min(Self.pagesPerClear, region.pageCount - first) + 63) / 64
                try unsafe ones.withUnsafeBufferPointer { buffer in
                    try unsafe rearm(
                        region: index, firstPage: PageIndex(first),
                        words: UnsafeBufferPointer(rebasing: buffer[..<wordCount]))
                }
            }
        }
    }
}
