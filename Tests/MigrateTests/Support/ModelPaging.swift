/// A model's memory under a real userfaultfd, with failures that a test asks for.

import KVM
import Migrate
import Synchronization
import Units

final class ModelPaging: MemoryPaging {
    private let memory: PagedMemory
    /// Pages installed so far.
    let installed = Atomic<Int>(0)

    init(_ memory: PagedMemory) { self.memory = memory }

    func arm() throws { try memory.arm() }
    func disarm() throws { try memory.disarm() }
    func discard(region: Int, run: PageRun) throws { try memory.discard(region: region, run: run) }
    func interrupt() { memory.interrupt() }
    func clearInterruption() { memory.clearInterruption() }
    func wake(region: Int, run: PageRun) throws { try memory.wake(region: region, run: run) }

    func awaitFaults(into pages: UnsafeMutableBufferPointer<UInt64>, timeoutMilliseconds: Int32) throws -> Int {
        try memory.awaitFaults(into: pages, timeoutMilliseconds: timeoutMilliseconds)
    }

    func install(region: Int, run: PageRun, from contents: UnsafeRawPointer) throws {
        try memory.install(region: region, run: run, from: contents)
        installed.add(run.count, ordering: .relaxed)
    }

    func installZeros(region: Int, run: PageRun) throws {
        try memory.installZeros(region: region, run: run)
        installed.add(run.count, ordering: .relaxed)
    }
}
