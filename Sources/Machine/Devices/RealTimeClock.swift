/// The clock of a PC, an MC146818: the time of day, and some bytes of memory behind it.

import CKVM
import Migrate
import Synchronization
import VMState

/// Ports 0x70 and 0x71. It goes by the host's wall clock, in UTC, plus what the guest has set it forward or back. It
/// raises no interrupt: a guest that waits for an alarm waits for ever, as on a PC whose line is not connected.
package final class RealTimeClock: Device, PortDevice {
    package static let deviceName = "rtc.0"
    package let name = RealTimeClock.deviceName
    package let version = ClockChipState.version

    package static let ports: ClosedRange<UInt16> = 0x70...0x71
    package static let line = 8
    package static let centuryRegister: UInt8 = 0x32

    private enum Register {
        static let seconds = 0
        static let minutes = 2
        static let hours = 4
        static let weekday = 6
        static let day = 7
        static let month = 8
        static let year = 9
        static let a = 10
        static let b = 11
        static let c = 12
        static let d = 13
        static let time: [Int] = [0, 2, 4, 6, 7, 8, 9, Int(RealTimeClock.centuryRegister)]
    }

    private enum Control {
        /// Register B: the guest sets the time, and the clock does not count.
        static let set: UInt8 = 0x80
        static let binary: UInt8 = 0x04
        static let hours24: UInt8 = 0x02
        /// Register D: the battery is good.
        static let valid: UInt8 = 0x80
        /// The hour is after noon, in 12-hour form.
        static let afternoon: UInt8 = 0x80
    }

    private struct State {
        var index: UInt8 = 0
        var registers: [UInt8]
        var offset: Int64 = 0
    }

    private let state: Mutex<State>
    /// The wall clock in seconds since 1970.
    private let now: @Sendable () -> Int64

    package init(now: @escaping @Sendable () -> Int64 = { ckvm_realtime_seconds() }) {
        var registers = [UInt8](repeating: 0, count: 128)
        registers[Register.a] = 0x26  // a 32,768 Hz crystal, 1,024 Hz periodic rate
        registers[Register.b] = Control.hours24
        state = Mutex(State(registers: registers))
        self.now = now
    }

    func realise(on buses: Buses) { buses.ports.add(Self.ports, self) }

    // MARK: The guest's side

    package func readPort(offset: UInt16, size: Int) -> UInt32 {
        // The index cannot be read back.
        guard offset == 1 else { return .max }
        let now = now()
        return state.withLock { state in
            let index = Int(state.index)
            if Register.time.contains(index), state.registers[Register.b] & Control.set == 0 {
                return UInt32(Self.fields(at: now &+ state.offset, state.registers[Register.b])[index] ?? 0)
            }
            switch index {
            // An update is never in progress: the time changes between two reads, at most.
            case Register.a: return UInt32(state.registers[index] & 0x7F)
            case Register.c: return 0
            case Register.d: return UInt32(Control.valid)
            default: return UInt32(state.registers[index])
            }
        }
    }

    package func writePort(offset: UInt16, size: Int, value: UInt32) {
        let byte = UInt8(truncatingIfNeeded: value)
        let now = now()
        state.withLock { state in
            guard offset == 1 else {
                // The highest bit masks the NMI, and there is none.
                state.index = byte & 0x7F
                return
            }
            let index = Int(state.index)
            switch index {
            case Register.c, Register.d: return
            case Register.b:
                let before = state.registers[Register.b]
                if before & Control.set == 0, byte & Control.set != 0 {
                    // The clock stops counting, with its time in the registers.
                    Self.latch(&state, now)
                }
                state.registers[Register.b] = byte
                if before & Control.set != 0, byte & Control.set == 0, let time = Self.time(in: state.registers, byte) {
                    state.offset = time &- now
                }
            case _ where Register.time.contains(index) && state.registers[Register.b] & Control.set == 0:
                // Set on the run: the other fields are as they are.
                Self.latch(&state, now)
                state.registers[index] = byte
                if let time = Self.time(in: state.registers, state.registers[Register.b]) {
                    state.offset = time &- now
                }
            default: state.registers[index] = byte
            }
        }
    }

    private static func latch(_ state: inout State, _ now: Int64) {
        for (index, value) in fields(at: now &+ state.offset, state.registers[Register.b]) {
            state.registers[index] = value
        }
    }

    // MARK: The calendar

    /// The registers of an instant, in the form that register B says.
    private static func fields(at instant: Int64, _ control: UInt8) -> [Int: UInt8] {
        let time = CalendarTime(secondsSince1970: instant)
        func coded(_ value: Int) -> UInt8 {
            let value = UInt8(clamping: value)
            return control & Control.binary != 0 ? value : (value / 10) << 4 | value % 10
        }
        var hour: UInt8
        if control & Control.hours24 != 0 {
            hour = coded(time.hour)
        } else {
            hour = coded(time.hour % 12 == 0 ? 12 : time.hour % 12)
            if time.hour >= 12 { hour |= Control.afternoon }
        }
        return [
            Register.seconds: coded(time.second), Register.minutes: coded(time.minute), Register.hours: hour,
            Register.weekday: coded(time.weekday), Register.day: coded(time.day),
            Register.month: coded(time.month), Register.year: coded(time.year % 100),
            Int(centuryRegister): coded(time.year / 100),
        ]
    }

    /// The instant that the registers say; nil for one that no calendar has.
    private static func time(in registers: [UInt8], _ control: UInt8) -> Int64? {
        func decoded(_ value: UInt8) -> Int {
            control & Control.binary != 0 ? Int(value) : Int(value >> 4) * 10 + Int(value & 0xF)
        }
        let hour = registers[Register.hours]
        return CalendarTime(
            year: decoded(registers[Int(centuryRegister)]) * 100 + decoded(registers[Register.year]),
            month: decoded(registers[Register.month]), day: decoded(registers[Register.day]),
            hour: control & Control.hours24 != 0
                ? decoded(hour)
                : decoded(hour & ~Control.afternoon) % 12 + (hour & Control.afternoon != 0 ? 12 : 0),
            minute: decoded(registers[Register.minutes]), second: decoded(registers[Register.seconds])
        ).secondsSince1970
    }

    // MARK: State

    func quiesce() {}
    func unquiesce() {}

    func save() throws -> StateSection {
        let saved = state.withLock {
            ClockChipState(index: $0.index, registers: $0.registers, offsetSeconds: $0.offset)
        }
        return StateSection(name: name, version: version, bytes: try saved.encoded())
    }

    func load(_ section: StateSection) throws {
        let saved = try ClockChipState(decoding: section.bytes, version: section.version)
        state.withLock {
            $0 = State(index: saved.index, registers: saved.registers, offset: saved.offsetSeconds)
        }
    }
}
