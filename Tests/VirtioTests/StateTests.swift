/// Saved states: refusals of what a device cannot have been.

import Testing
import VMState
import Virtio

struct StateTests {
    /// A device at work, saved.
    private func saved() throws -> (GuestDriver, VirtioState) {
        let driver = try GuestDriver(EntropyDevice())
        try driver.start()
        driver.add([.into(0x100000, 64)])
        driver.kick()
        _ = try driver.await()
        driver.device.quiesce()
        return (driver, try VirtioState(decoding: driver.device.save(), version: 1))
    }

    private func load(_ state: VirtioState, into memory: GuestBuffer, _ backend: any VirtioBackend) throws {
        let device = try VirtioDevice(backend: backend, memory: memory, setInterrupt: { _ in })
        try device.load(state.encoded(), version: 1)
    }

    @Test func hasWhatItSays() throws {
        let (driver, state) = try saved()
        #expect(state.deviceID == 4)
        #expect(state.status == 15)
        #expect(state.interruptStatus == 1)
        #expect(state.driverFeatures == driver.features)
        #expect(state.queues.count == 1)
        #expect(state.queues[0].nextUsed == 1)
        #expect(state.queues[0].descriptorAddress == driver.queues[0].descriptors)
        try load(state, into: driver.memory, EntropyDevice())
        let rows = try #require(try StateDescription(section: "virtio.3", version: 1, bytes: state.encoded())).rows
        #expect(rows.contains(.init(name: "queue.0.nextUsed", value: "1")))
    }

    @Test func refusesImpossibleStates() throws {
        let (driver, state) = try saved()
        let changes: [@Sendable (inout VirtioState) -> Void] = [
            { $0.deviceID = 2 }, { $0.status = 0x1F }, { $0.status = 4 }, { $0.interruptStatus = 4 },
            { $0.driverFeatures |= 1 }, { $0.driverFeatures = 0 }, { $0.queues = [] },
            { $0.queues.append(.init()) }, { $0.queues[0].size = 63 }, { $0.queues[0].size = 128 },
            { $0.queues[0].size = 0 }, { $0.queues[0].nextUsed = 0 }, { $0.queues[0].descriptorAddress = 8 },
            { $0.queues[0].driverAddress = .max - 1 }, { $0.queues[0].deviceAddress = 0x4000_0000 },
            { $0.device = .console(input: []) }, { $0.device = .network(announcePending: true) },
        ]
        for change in changes {
            var changed = state
            change(&changed)
            #expect(throws: (any Error).self) { try load(changed, into: driver.memory, EntropyDevice()) }
        }
        #expect(throws: (any Error).self) {
            let device = try VirtioDevice(backend: EntropyDevice(), memory: driver.memory, setInterrupt: { _ in })
            try device.load(state.encoded(), version: 2)
        }
    }

    @Test func refusesFeaturesThatAreNotOffered() throws {
        let disk = try TemporaryDisk(byteCount: 1 << 20)
        let driver = try GuestDriver(BlockDevice(file: try disk.open()))
        try driver.start()
        driver.device.quiesce()
        let state = try VirtioState(decoding: driver.device.save(), version: 1)
        let error = #expect(throws: VirtioError.self) {
            try load(state, into: driver.memory, BlockDevice(file: try disk.open(readOnly: true)))
        }
        #expect(error?.code == .unsupported)
        #expect(error?.message == "virtio-blk: the driver uses features that are not offered here: 0x6000")
    }

    /// The first attempt of a move may come to nothing, and the second brings another state.
    @Test func aStoppedDeviceTakesAnother() throws {
        let (driver, state) = try saved()
        var later = state
        later.interruptStatus = 0
        let device = try VirtioDevice(backend: EntropyDevice(), memory: driver.memory, setInterrupt: { _ in })
        try device.load(state.encoded(), version: 1)
        try device.load(later.encoded(), version: 1)
        #expect(try VirtioState(decoding: device.save(), version: 1) == later)
    }

    @Test func aRunningDeviceTakesNone() throws {
        let (driver, state) = try saved()
        driver.device.unquiesce()
        #expect(throws: VirtioError.self) { try driver.device.load(state.encoded(), version: 1) }
    }
}
