/// A receiver's machine is refused with every reason by name, before any memory is taken.

import KVM
import Machine
import Migrate
import Testing
import Units

@Suite(.enabled(if: hasKVM, noKVM))
struct BuilderTests {
    private func good() throws -> MachineConfiguration { try Machine.selftest("", vcpus: 2).configuration }

    private func reasons(_ configuration: MachineConfiguration) -> String {
        do {
            _ = try LocalMachineBuilder().makeMachine(for: configuration)
            return ""
        } catch {
            #expect((error as? MachineError)?.code == .cannotRunHere)
            return "\(error)"
        }
    }

    @Test func aGoodOneIsBuilt() throws {
        let configuration = try good()
        let machine = try LocalMachineBuilder().makeMachine(for: configuration)
        #expect(machine.configuration == configuration)
        #expect(machine.memory.map(\.byteCount) == [64 << 20])
    }

    private func populatedPages(_ machine: Machine) throws -> Int {
        var words = [UInt64](repeating: 0, count: machine.memory[0].pageCount / 64)
        try words.withUnsafeMutableBufferPointer {
            try machine.readPopulation(region: 0, firstPage: PageIndex(0), words: $0)
        }
        return words.reduce(0) { $0 + $1.nonzeroBitCount }
    }

    /// What was preallocated goes to the first machine of that size. Others find their pages as they come.
    @Test(arguments: [MemoryBacking.anonymous, .memfd])
    func aReserveServesOneMachineOfItsSize(_ backing: MemoryBacking) throws {
        let configuration = try good()
        let host = HostOptions(memoryBacking: backing)
        let fitting = try MachineReserve(memory: ByteCount(rawValue: 64 << 20), host: host)
        let builder = LocalMachineBuilder(host: host, reserve: fitting)
        // One that is refused takes nothing.
        var refused = configuration
        refused.vcpuCount = 0
        #expect(throws: MachineError.self) { try builder.makeMachine(for: refused) }
        let first = try builder.makeLocalMachine(for: configuration)
        #expect(try populatedPages(first) == 64 << 8)
        let second = try builder.makeLocalMachine(for: configuration)
        #expect(try populatedPages(second) == 0)

        let other = try MachineReserve(memory: ByteCount(rawValue: 128 << 20), host: host)
        let third = try LocalMachineBuilder(host: host, reserve: other).makeLocalMachine(for: configuration)
        #expect(try populatedPages(third) == 0)
        #expect(third.memory.map(\.byteCount) == [64 << 20])
    }

    @Test func aReserveThatCannotBeIsRefused() throws {
        for (size, word) in [(3, "MiB"), (UInt64(512) << 30, "this host has"), (.max, "TiB")] {
            do {
                _ = try MachineReserve(memory: ByteCount(rawValue: size), host: HostOptions())
                Issue.record("\(size) bytes were preallocated")
            } catch {
                #expect("\(error)".contains(word), "\(error)")
            }
        }
    }

    @Test func eachFaultIsNamed() throws {
        func check(_ word: String, _ change: (inout MachineConfiguration) -> Void) throws {
            var configuration = try good()
            change(&configuration)
            let text = reasons(configuration)
            #expect(text.contains(word), "\(word): \(text)")
            #expect(!text.contains("\n"))
        }
        try check("name") { $0.name = "../x" }
        try check("name") { $0.name = "a\nb" }
        try check("identifier") { $0.identifier = [] }
        try check("memory") { $0.memory = [] }
        try check("memory") { $0.memory[0].byteCount = 4095 }
        try check("memory") { $0.memory[0].guestAddress = GuestAddress(4096) }
        try check("memory") { $0.memory.append($0.memory[0]) }
        try check("memory") {
            $0.memory = [
                .init(guestAddress: GuestAddress(0), byteCount: .max),
                .init(guestAddress: GuestAddress(0), byteCount: 2),
            ]
        }
        try check("memory") { $0.memory = Array(repeating: $0.memory[0], count: 1000) }
        // 512 GiB is a layout like any other, only larger than this host.
        try check("MiB of memory") {
            $0.memory = GuestMemoryLayout.regions(for: ByteCount(rawValue: 512 << 30))
        }
        try check("vCPUs") { $0.vcpuCount = 0 }
        try check("vCPUs") { $0.vcpuCount = -5 }
        try check("vCPUs") { $0.vcpuCount = .max }
        try check("CPU policy") { $0.cpuPolicy = [] }
        try check("CPU policy") { $0.cpuPolicy = Array(repeating: 0xFF, count: 100) }
        try check("twice") { $0.devices.append($0.devices[0]) }
        try check("gpu.0") { $0.devices.append(.init(name: "gpu.0", version: 1)) }
        try check("version 99") { $0.devices[0].version = 99 }
        try check("version 0") { $0.devices[0].version = 0 }
        try check("lacks the device serial.0") { $0.devices = [] }
        // Several at once are all told.
        var many = try good()
        many.vcpuCount = 0
        many.identifier = []
        many.devices = []
        let text = reasons(many)
        #expect(text.contains("vCPUs") && text.contains("identifier") && text.contains("serial.0"), "\(text)")
    }
}
