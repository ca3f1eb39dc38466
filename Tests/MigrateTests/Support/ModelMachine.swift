/// A VM without KVM: memory, a thread that writes it, and a dirty log that is kept by hand. The engine cannot tell it
/// from a real one, and it runs where there is no /dev/kvm.

import DirtyLog
import Glibc
import KVM
import Migrate
import Synchronization
import Units

final class ModelMachine: MigratableMachine, @unchecked Sendable {
    let configuration: MachineConfiguration
    let memory: [MemoryRegion]
    /// Counts writes; part of the state that moves.
    private(set) var counter: UInt64 = 0
    private let written: [AtomicPageSet]
    private let mappings: [GuestMemory]
    /// Kept for as long as its thread may touch memory.
    private(set) var paging: ModelPaging?
    /// Why its memory cannot be paged.
    var pagingFailure: (any Error)?
    /// Checks each page against what it must hold, and counts those that do not: see `fillChecked`.
    private let checks: Bool
    let wrongPages = Atomic<Int>(0)
    private let writing = Mutex(Writing())
    private let stops = Atomic<Bool>(true)
    /// Pages per second that its thread writes; 0 for none.
    let pagesPerSecond: Int
    private var thread: PlainThread?
    var captureFailure: (any Error)?
    var restoreFailure: (any Error)?
    /// Locked while it runs, if there is one.
    var disk: ModelDisk?
    private(set) var isRunning = false
    private var liveShare = 1.0

    private func livePages(_ region: MemoryRegion) -> Int {
        max(2, min(region.pageCount, Int(Double(region.pageCount) * liveShare)))
    }

    private struct Writing { var generator = Xorshift(seed: 0x1234_5678_9ABC_DEF1) }

    init(
        configuration: MachineConfiguration, pagesPerSecond: Int = 0, backing: MemoryBacking = .anonymous,
        checks: Bool = false
    ) {
        self.configuration = configuration
        self.pagesPerSecond = pagesPerSecond
        self.checks = checks
        mappings = configuration.memory.map { region in
            do {
                let mapping = try GuestMemory(byteCount: Int(region.byteCount), backing: backing)
                // Which pages are populated is to be known exactly.
                try mapping.setHugePages(false)
                return mapping
            } catch {
                preconditionFailure("no memory for a model: \(error)")
            }
        }
        memory = zip(configuration.memory, mappings).map { region, mapping in
            MemoryRegion(guestAddress: region.guestAddress, byteCount: mapping.byteCount, base: mapping.base)
        }
        written = memory.map { AtomicPageSet(pageCount: $0.pageCount) }
    }

    deinit {
        _ = try? pause()
    }

    /// Fills the first `share` of each region with content that does not compress, and leaves the rest untouched: its
    /// thread writes there only, however long it runs.
    func fill(share: Double) {
        var generator = Xorshift(seed: 42)
        liveShare = share
        for region in memory {
            let words = region.base.assumingMemoryBound(to: UInt64.self)
            for page in 0..<livePages(region) {
                for word in 0..<512 { words[page * 512 + word] = generator.next() }
            }
        }
    }

    func makeDirtyTracker() throws -> any DirtyTracker { ModelTracker(written: written) }

    func readPopulation(region: Int, firstPage: PageIndex, words: UnsafeMutableBufferPointer<UInt64>) throws {
        for i in words.indices { words[i] = 0 }
        var resident = [UInt8](repeating: 0, count: words.count * 64)
        let pages = min(resident.count, memory[region].pageCount - firstPage.rawValue)
        precondition(mincore(memory[region].base + firstPage.byteOffset, pages * pageByteCount, &resident) == 0)
        for page in 0..<pages where resident[page] & 1 != 0 { words[page / 64] |= 1 << UInt64(page % 64) }
    }

    func pause() throws -> UInt64 {
        stops.store(true, ordering: .releasing)
        thread?.join()
        thread = nil
        isRunning = false
        return MonotonicInstant.now.nanoseconds
    }

    func resume() throws -> UInt64 {
        precondition(!isRunning, "resumed twice")
        if let disk { precondition(disk.owner == ObjectIdentifier(self), "runs without its disk") }
        isRunning = true
        stops.store(false, ordering: .releasing)
        if pagesPerSecond > 0 { thread = try PlainThread(name: "model") { [unowned self] in write() } }
        return MonotonicInstant.now.nanoseconds
    }

    func makePaging() throws -> any MemoryPaging {
        if let pagingFailure { throw pagingFailure }
        let made = ModelPaging(try PagedMemory(mappings))
        paging = made
        return made
    }

    /// Gives each page its number and how often it was written, which its thread looks at before it writes again.
    func fillChecked(share: Double = 1) {
        liveShare = share
        for (number, region) in memory.enumerated() {
            for page in 0..<livePages(region) { stamp(region: number, page: page, generation: 1) }
        }
    }

    private func stamp(region: Int, page: Int, generation: UInt64) {
        let words = memory[region].base.assumingMemoryBound(to: UInt64.self) + page * 512
        let name = UInt64(region) << 48 | UInt64(page) | 1 << 63
        words[0] = generation
        words[1] = name
        words[511] = name ^ generation &* 0x9E37_79B9_7F4A_7C15
    }

    /// Whether a page is what some write of it left.
    func isRight(region: Int, page: Int) -> Bool {
        let words = memory[region].base.assumingMemoryBound(to: UInt64.self) + page * 512
        let name = UInt64(region) << 48 | UInt64(page) | 1 << 63
        return words[0] > 0 && words[1] == name && words[511] == name ^ words[0] &* 0x9E37_79B9_7F4A_7C15
    }

    /// Pages that are not what they must be. Of a machine that stands still, or writes through `touch` only.
    func wrongPageCount() -> Int {
        var wrong = 0
        for (number, region) in memory.enumerated() {
            for page in 0..<livePages(region) where !isRight(region: number, page: page) { wrong += 1 }
        }
        return wrong
    }

    func captureState() throws -> [StateSection] {
        if let captureFailure { throw captureFailure }
        // Capturing writes guest memory, as KVM's does.
        touch(region: 0, page: 1)
        let share = UInt64(liveShare * 1e6)
        return [
            StateSection(
                name: "model", version: 1,
                bytes: withUnsafeBytes(of: counter.littleEndian) { Array($0) }
                    + (checks ? withUnsafeBytes(of: share.littleEndian) { Array($0) } : []))
        ]
    }

    func restoreState(_ sections: [StateSection], clockOffset: Int64) throws {
        if let restoreFailure { throw restoreFailure }
        guard sections.count == 1, sections[0].name == "model", sections[0].bytes.count == (checks ? 16 : 8) else {
            throw Refusal(.incompatible, "this is not the state of a model")
        }
        counter = sections[0].bytes.prefix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) }
        guard checks else { return }
        liveShare = Double(sections[0].bytes.suffix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) }) / 1e6
        // Restoring writes guest memory as well.
        touch(region: 0, page: 0)
    }

    func releaseDisks() throws { try disk?.release(by: ObjectIdentifier(self)) }
    func lockDisks() throws { try disk?.lock(by: ObjectIdentifier(self)) }

    /// All of memory as one hash, to compare two machines.
    func fingerprint() -> [UInt64] {
        memory.map { region in
            let words = region.base.assumingMemoryBound(to: UInt64.self)
            var sum: UInt64 = 0
            for i in 0..<region.byteCount / 8 { sum = (sum ^ words[i]) &* 0x9E37_79B9_7F4A_7C15 &+ UInt64(i) }
            return sum
        }
    }

    private func write() {
        let begun = MonotonicInstant.now
        var done = 0
        while !stops.load(ordering: .acquiring) {
            let due = Int((MonotonicInstant.now - begun).inSeconds * Double(pagesPerSecond))
            while done < due, !stops.load(ordering: .relaxed) {
                let random = writing.withLock { $0.generator.next() }
                let region = Int(random % UInt64(memory.count))
                touch(region: region, page: Int(random >> 8) % livePages(memory[region]))
                done += 1
            }
            usleep(200)
        }
    }

    private func touch(region: Int, page: Int) {
        counter += 1
        if checks {
            if !isRight(region: region, page: page) { wrongPages.add(1, ordering: .relaxed) }
            let old = memory[region].base.load(fromByteOffset: page * pageByteCount, as: UInt64.self)
            stamp(region: region, page: page, generation: old &+ 1)
            return written[region].insert(PageIndex(page))
        }
        memory[region].base.storeBytes(
            of: counter, toByteOffset: page * pageByteCount + 8 * (page % 512), as: UInt64.self)
        // After the write: a harvest that comes between sees it next time.
        written[region].insert(PageIndex(page))
    }
}

/// A log without a kernel.
final class ModelTracker: DirtyTracker {
    private let written: [AtomicPageSet]
    private let firstIsFull = Mutex(false)

    init(written: [AtomicPageSet]) { self.written = written }

    func start(allSet: Bool) throws { firstIsFull.withLock { $0 = allSet } }

    func harvest(into sets: inout [PageSet]) throws -> HarvestResult {
        let isFull = firstIsFull.withLock { full in
            defer { full = false }
            return full
        }
        for region in written.indices {
            written[region].drain(into: &sets[region])
            if isFull { sets[region].insertAll() }
        }
        return .complete
    }

    func rearm(region: Int, firstPage: PageIndex, words: UnsafeBufferPointer<UInt64>) throws {}
    func markWritten(region: Int, run: PageRun) { written[region].insert(run) }
    func stop() throws {}
}

/// A disk that one VM at a time may have.
final class ModelDisk: Sendable {
    struct Busy: Error {}

    private struct State {
        var owner: ObjectIdentifier?
        var owners: [ObjectIdentifier] = []
        var failingLocks = 0
        var failingReleases = 0
    }

    private let state = Mutex(State())

    /// - Parameters:
    ///   - failingLocks: so many attempts of a second owner to lock it fail.
    ///   - failingReleases: so many attempts to release it fail.
    init(failingLocks: Int = 0, failingReleases: Int = 0) {
        state.withLock { state in
            state.failingLocks = failingLocks
            state.failingReleases = failingReleases
        }
    }

    var owner: ObjectIdentifier? { state.withLock { $0.owner } }
    /// Whoever had it, in order.
    var owners: [ObjectIdentifier] { state.withLock { $0.owners } }

    func lock(by machine: ObjectIdentifier) throws {
        try state.withLock { state in
            if state.owner == machine { return }
            if !state.owners.isEmpty, state.failingLocks > 0 {
                state.failingLocks -= 1
                throw Busy()
            }
            guard state.owner == nil else { throw Busy() }
            state.owner = machine
            state.owners.append(machine)
        }
    }

    func release(by machine: ObjectIdentifier) throws {
        try state.withLock { state in
            guard state.owner == machine else { return }
            if state.failingReleases > 0 {
                state.failingReleases -= 1
                throw Busy()
            }
            state.owner = nil
        }
    }
}

/// A small generator with a seed, for content that repeats.
struct Xorshift: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed | 1 }

    mutating func next() -> UInt64 {
        state ^= state << 13
        state ^= state >> 7
        state ^= state << 17
        return state
    }
}

/// Builds models.
struct ModelBuilder: MachineBuilder {
    var pagesPerSecond = 0
    var refusal: Refusal?
    var disk: ModelDisk?
    var backing = MemoryBacking.anonymous
    var checks = false
    var pagingFailure: Refusal?
    var onBuilt: @Sendable (ModelMachine) -> Void = { _ in }

    func makeMachine(for configuration: MachineConfiguration) throws -> any MigratableMachine {
        if let refusal { throw refusal }
        let machine = ModelMachine(
            configuration: configuration, pagesPerSecond: pagesPerSecond, backing: backing, checks: checks)
        machine.disk = disk
        machine.pagingFailure = pagingFailure
        onBuilt(machine)
        return machine
    }
}

extension MachineConfiguration {
    /// Two regions, the second not a whole number of stripes.
    static func model(mebibytes: UInt64, name: String = "model") -> MachineConfiguration {
        MachineConfiguration(
            name: name, identifier: Array(repeating: 7, count: 16),
            memory: [
                Memory(guestAddress: GuestAddress(0), byteCount: (mebibytes - 1) << 20),
                Memory(guestAddress: GuestAddress(1 << 32), byteCount: 1 << 20),
            ], vcpuCount: 1, cpuPolicy: [1, 2, 3], devices: [Device(name: "serial.0", version: 1)])
    }
}
