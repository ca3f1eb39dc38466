/// The serial port's section.

import Testing
import VMState

struct SerialStateTests {
    private var sample: SerialState {
        var state = SerialState()
        (state.interruptEnable, state.interruptIdentification, state.fifoControl) = (1, 2, 0xC9)
        (state.lineControl, state.modemControl, state.lineStatus, state.modemStatus) = (0x83, 0x1F, 0x60, 0xB0)
        (state.scratch, state.divisor) = (0xA5, 0x0180)
        state.receiveFIFO = Array("typed".utf8)
        state.transmitInterruptPending = true
        return state
    }

    @Test func goesThroughBytes() throws {
        #expect(try SerialState(decoding: sample.encoded(), version: 1) == sample)
        #expect(try SerialState(decoding: [], version: 1) == SerialState())
    }

    /// Field 1 (varint) with 256, which no register holds.
    @Test func refusesWideRegisters() {
        let error = #expect(throws: StateError.self) { try SerialState(decoding: [0x08, 0x80, 0x02], version: 1) }
        #expect(error?.description == "serial state has an impossible interruptEnable: 256")
    }

    @Test func sectionIsDescribed() throws {
        let rows = try #require(try StateDescription(section: "serial.0", version: 1, bytes: sample.encoded())).rows
        #expect(rows.contains(.init(name: "lineControl", value: "0x83")))
        #expect(rows.contains(.init(name: "receiveFIFO+0x0", value: "74 79 70 65 64")))
        #expect(try StateDescription(section: "gpu.0", version: 1, bytes: []) == nil)
    }
}
