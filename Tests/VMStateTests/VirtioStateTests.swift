/// A virtio device's section.

import Testing
import VMState

struct VirtioStateTests {
    /// A device with something in every field.
    static var sample: VirtioState {
        var state = VirtioState()
        (state.deviceID, state.status, state.interruptStatus) = (5, 15, 3)
        (state.configGeneration, state.deviceFeaturesSelect, state.driverFeaturesSelect) = (7, 1, 1)
        (state.driverFeatures, state.queueSelect) = (0x1_3000_0024, 2)
        for index in 0..<3 {
            var queue = VirtioState.Queue()
            (queue.size, queue.isReady) = (128, true)
            queue.descriptorAddress = 0x10000 + UInt64(index) * 0x4000
            queue.driverAddress = 0x12000 + UInt64(index) * 0x4000
            queue.deviceAddress = 0x13000 + UInt64(index) * 0x4000
            (queue.nextAvailable, queue.nextUsed) = (0xFFF0, 0xFFF0)
            state.queues.append(queue)
        }
        state.device = .balloon(targetPages: 1000, actualPages: 900)
        return state
    }

    @Test(
        arguments: [
            .none, .network(announcePending: true), .network(announcePending: false), .console(input: [1, 2]),
            .console(input: []), .balloon(targetPages: 0, actualPages: 0),
        ] as [VirtioState.Device])
    func goesThroughBytes(_ device: VirtioState.Device) throws {
        var state = Self.sample
        state.device = device
        #expect(try VirtioState(decoding: state.encoded(), version: 1) == state)
    }

    @Test func refusesImpossibleValues() throws {
        #expect(throws: StateError.self) { try VirtioState(decoding: [0x10, 0x80, 0x02], version: 1) }
        var state = Self.sample
        state.interruptStatus = 4
        #expect(throws: StateError.self) { try VirtioState(decoding: state.encoded(), version: 1) }
        state = Self.sample
        state.queues[1].nextUsed = 0xFFEF
        let error = #expect(throws: StateError.self) { try VirtioState(decoding: state.encoded(), version: 1) }
        #expect(error?.message.contains("virtio state's queue 1") == true)
        state = Self.sample
        state.queues = .init(repeating: .init(), count: 17)
        #expect(throws: StateError.self) { try VirtioState(decoding: state.encoded(), version: 1) }
    }
}
