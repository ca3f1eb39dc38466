/// A 16550A UART, as far as guests use it: both directions, FIFOs, interrupts, loopback.

import KVM
import Migrate
import Synchronization
import VMState

/// The serial port COM1: ports 0x3f8 to 0x3ff, interrupt line 4.
final class SerialPort: Device, PortDevice {
    static let deviceName = "serial.0"
    let name = SerialPort.deviceName
    let version = SerialState.version

    private static let line = 4
    private static let fifoDepth = 16
    /// Input that waits for room in the FIFO. More is refused: whoever types faster than the guest reads must wait.
    static let backlogLimit = 64 << 10

    private struct Registers {
        var interruptEnable: UInt8 = 0
        var fifoControl: UInt8 = 0
        var lineControl: UInt8 = 0
        var modemControl: UInt8 = 0
        /// Error bits of the line status; data-ready and the transmitter's bits follow from the rest.
        var lineErrors: UInt8 = 0
        var scratch: UInt8 = 0
        /// 9600 baud, as firmware leaves it.
        var divisor: UInt16 = 12
        var fifo: [UInt8] = []
        /// "Transmitter empty" is due and not yet acknowledged.
        var transmitPending = false

        /// From the host, not yet in the FIFO.
        var backlog: [UInt8] = []
        var isQuiesced = false
        var lineLevel = false
    }

    private let registers = Mutex(Registers())
    private let vm: VirtualMachine
    private let console: SerialConsole

    init(vm: VirtualMachine, console: SerialConsole) {
        self.vm = vm
        self.console = console
    }

    func realise(on buses: Buses) { buses.ports.add(0x3F8...0x3FF, self) }

    // MARK: The guest's side

    func readPort(offset: UInt16, size: Int) -> UInt32 {
        registers.withLock { state in
            defer { update(&state) }
            return UInt32(read(&state, offset))
        }
    }

    func writePort(offset: UInt16, size: Int, value: UInt32) {
        let output = registers.withLock { state -> UInt8? in
            defer { update(&state) }
            return write(&state, offset, UInt8(truncatingIfNeeded: value))
        }
        if let output { console.write(output) }
    }

    private func read(_ state: inout Registers, _ offset: UInt16) -> UInt8 {
        switch offset {
        case 0 where state.lineControl & LineControl.divisorLatch != 0: return UInt8(truncatingIfNeeded: state.divisor)
        case 0: return state.fifo.isEmpty ? 0 : state.fifo.removeFirst()
        case 1 where state.lineControl & LineControl.divisorLatch != 0:
            return UInt8(truncatingIfNeeded: state.divisor >> 8)
        case 1: return state.interruptEnable
        case 2:
            let cause = interruptCause(state)
            // Reading the cause acknowledges the transmitter's interrupt, when that is the cause.
            if cause == InterruptCause.transmitterEmpty { state.transmitPending = false }
            return cause | (state.fifoControl & 1 != 0 ? 0xC0 : 0)
        case 3: return state.lineControl
        case 4: return state.modemControl
        case 5:
            let status =
                state.lineErrors | LineStatus.transmitterIdle | (state.fifo.isEmpty ? 0 : LineStatus.dataReady)
            state.lineErrors = 0
            return status
        case 6:
            guard state.modemControl & ModemControl.loopback != 0 else { return 0xB0 }  // DCD, DSR, CTS
            // Loopback: DTR, RTS, OUT1, OUT2 come back as DSR, CTS, RI, DCD.
            let out = state.modemControl
            return (out & 1) << 5 | (out & 2) << 3 | (out & 4) << 4 | (out & 8) << 4
        default: return state.scratch
        }
    }

    private func write(_ state: inout Registers, _ offset: UInt16, _ value: UInt8) -> UInt8? {
        let latch = state.lineControl & LineControl.divisorLatch != 0
        switch offset {
        case 0 where latch: state.divisor = state.divisor & 0xFF00 | UInt16(value)
        case 0:
            // A byte written takes the transmitter's interrupt away for as long as it is sent, which here is no time:
            // an edge-triggered controller must still see the line fall and rise.
            if interruptCause(state) == InterruptCause.transmitterEmpty { setLine(&state, false) }
            state.transmitPending = true
            guard state.modemControl & ModemControl.loopback != 0 else { return value }
            if state.fifo.count < Self.fifoDepth {
                state.fifo.append(value)
            } else {
                state.lineErrors |= LineStatus.overrun
            }
        case 1 where latch: state.divisor = state.divisor & 0x00FF | UInt16(value) << 8
        case 1:
            // The transmitter is always empty here, so that asking for its interrupt makes it due.
            if value & InterruptEnable.transmitterEmpty != 0,
                state.interruptEnable & InterruptEnable.transmitterEmpty == 0
            {
                state.transmitPending = true
            }
            state.interruptEnable = value & 0x0F
        case 2:
            if value & 2 != 0 { state.fifo = [] }
            state.fifoControl = value & 0xC9
        case 3: state.lineControl = value
        case 4: state.modemControl = value & 0x1F
        case 7: state.scratch = value
        default: break
        }
        return nil
    }

    private func interruptCause(_ state: Registers) -> UInt8 {
        let enabled = state.interruptEnable
        if enabled & InterruptEnable.lineStatus != 0, state.lineErrors != 0 { return InterruptCause.lineStatus }
        if enabled & InterruptEnable.dataReady != 0, !state.fifo.isEmpty { return InterruptCause.dataReady }
        if enabled & InterruptEnable.transmitterEmpty != 0, state.transmitPending {
            return InterruptCause.transmitterEmpty
        }
        return InterruptCause.none
    }

    /// Moves waiting input on, and sets the interrupt line where it changed.
    private func update(_ state: inout Registers) {
        guard !state.isQuiesced else { return }
        let isLooped = state.modemControl & ModemControl.loopback != 0
        if !isLooped, !state.backlog.isEmpty, state.fifo.count < Self.fifoDepth {
            let count = min(Self.fifoDepth - state.fifo.count, state.backlog.count)
            state.fifo += state.backlog.prefix(count)
            state.backlog.removeFirst(count)
        }
        setLine(&state, interruptCause(state) != InterruptCause.none)
    }

    private func setLine(_ state: inout Registers, _ level: Bool) {
        guard level != state.lineLevel else { return }
        state.lineLevel = level
        // The line exists as long as the machine does: this cannot fail, and a guest can do without an interrupt.
        try? vm.setInterruptLine(Self.line, level: level)
    }

    // MARK: The host's side

    /// Passes input to the guest; returns how many bytes were taken.
    func receive(_ bytes: [UInt8]) -> Int {
        registers.withLock { state in
            let taken = min(bytes.count, Self.backlogLimit - state.backlog.count)
            state.backlog += bytes.prefix(taken)
            update(&state)
            return taken
        }
    }

    // MARK: Standing still

    func quiesce() { registers.withLock { $0.isQuiesced = true } }

    func unquiesce() {
        registers.withLock { state in
            state.isQuiesced = false
            update(&state)
        }
    }

    func save() throws -> StateSection {
        let state = registers.withLock { state in
            var saved = SerialState()
            saved.interruptEnable = state.interruptEnable
            saved.interruptIdentification = interruptCause(state)
            saved.fifoControl = state.fifoControl
            saved.lineControl = state.lineControl
            saved.modemControl = state.modemControl
            saved.lineStatus = state.lineErrors
            saved.scratch = state.scratch
            saved.divisor = state.divisor
            // Input that waits for room goes along: nothing that was typed is lost.
            saved.receiveFIFO = state.fifo + state.backlog
            saved.transmitInterruptPending = state.transmitPending
            return saved
        }
        return StateSection(name: name, version: version, bytes: try state.encoded())
    }

    /// The line is set again as the registers have it. The controllers remember that it was high, so that this is no
    /// new edge to them.
    func load(_ section: StateSection) throws {
        let saved = try SerialState(decoding: section.bytes, version: section.version)
        registers.withLock { state in
            state.interruptEnable = saved.interruptEnable
            state.fifoControl = saved.fifoControl
            state.lineControl = saved.lineControl
            state.modemControl = saved.modemControl
            state.lineErrors = saved.lineStatus
            state.scratch = saved.scratch
            state.divisor = saved.divisor
            state.fifo = Array(saved.receiveFIFO.prefix(Self.fifoDepth))
            state.backlog = Array(saved.receiveFIFO.dropFirst(Self.fifoDepth))
            state.transmitPending = saved.transmitInterruptPending
            setLine(&state, interruptCause(state) != InterruptCause.none)
        }
    }
}

private enum InterruptEnable {
    static let dataReady: UInt8 = 1
    static let transmitterEmpty: UInt8 = 2
    static let lineStatus: UInt8 = 4
}

private enum InterruptCause {
    static let none: UInt8 = 1
    static let transmitterEmpty: UInt8 = 2
    static let dataReady: UInt8 = 4
    static let lineStatus: UInt8 = 6
}

private enum LineControl {
    static let divisorLatch: UInt8 = 0x80
}

private enum ModemControl {
    static let loopback: UInt8 = 0x10
}

private enum LineStatus {
    static let dataReady: UInt8 = 1
    static let overrun: UInt8 = 2
    /// Holding register empty, transmitter empty.
    static let transmitterIdle: UInt8 = 0x60
}
