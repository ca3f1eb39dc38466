/// ACPI's fixed hardware (ACPI 6.4, section 4.8): soft-off, general-purpose events, and the ways to reset a PC.

import KVM
import Migrate
import Synchronization
import VMState

/// PM1 event and control blocks, a GPE block of eight events, the SCI; and, without state, port 0xCF9 and what a PC's
/// keyboard controller does about resets.
package final class PowerController: Device {
    package static let deviceName = "acpi.0"
    package let name = PowerController.deviceName
    package let version = PowerState.version

    package static let line = 9
    package static let eventPorts: ClosedRange<UInt16> = 0x600...0x603
    package static let controlPorts: ClosedRange<UInt16> = 0x604...0x605
    package static let generalEventPorts: ClosedRange<UInt16> = 0x620...0x621
    package static let resetPort: UInt16 = 0xCF9
    package static let resetValue: UInt8 = 0x06
    /// SLP_TYP for soft-off, as the DSDT's \_S5 says it.
    package static let softOff: UInt8 = 5
    /// The event by which the generation identifier says that it has changed.
    package static let generationEvent = 0

    private enum Control {
        /// Power management events raise the SCI, not an SMI. Always on.
        static let sciEnabled: UInt16 = 1 << 0
        static let sleepEnable: UInt16 = 1 << 13
        static let kept: UInt16 = 0x1C03
    }

    private struct State {
        var saved = PowerState()
        var isQuiesced = false
        var level = false
    }

    private let state = Mutex(State())
    private let end: GuestEnd
    private let setLine: @Sendable (Bool) -> Void

    /// - Parameter setLine: sets the SCI's line.
    init(end: GuestEnd, setLine: @escaping @Sendable (Bool) -> Void) {
        self.end = end
        self.setLine = setLine
    }

    func realise(on buses: Buses) {
        buses.ports.add(Self.eventPorts, Block(read: readEvent, write: writeEvent))
        buses.ports.add(Self.controlPorts, Block(read: readControl, write: writeControl))
        buses.ports.add(Self.generalEventPorts, Block(read: readGeneral, write: writeGeneral))
        let end = end
        buses.ports.add(
            Self.resetPort...Self.resetPort,
            Block(read: { _ in 0 }, write: { _, value in if value & 0x04 != 0 { end.request(.rebooted) } }))
        // The keyboard controller's command port: pulse the reset line. Its status says that it is ready to be told.
        buses.ports.add(
            0x64...0x64,
            Block(read: { _ in 0 }, write: { _, value in if value == 0xFE { end.request(.rebooted) } }))
    }

    /// Raises one of the general-purpose events.
    func raise(_ event: Int) {
        state.withLock { state in
            state.saved.generalStatus |= 1 << UInt8(event & 7)
            update(&state)
        }
    }

    // MARK: Registers, a byte each

    private func readEvent(_ offset: Int) -> UInt8 {
        state.withLock { state in
            let value = offset < 2 ? state.saved.eventStatus : state.saved.eventEnable
            return UInt8(truncatingIfNeeded: value >> UInt16(offset % 2 * 8))
        }
    }

    private func writeEvent(_ offset: Int, _ value: UInt8) {
        state.withLock { state in
            let shift = UInt16(offset % 2 * 8)
            if offset < 2 {
                state.saved.eventStatus &= ~(UInt16(value) << shift)
            } else {
                state.saved.eventEnable = state.saved.eventEnable & ~(0xFF << shift) | UInt16(value) << shift
            }
            update(&state)
        }
    }

    private func readControl(_ offset: Int) -> UInt8 {
        state.withLock { state in
            UInt8(truncatingIfNeeded: (state.saved.control | Control.sciEnabled) >> UInt16(offset * 8))
        }
    }

    private func writeControl(_ offset: Int, _ value: UInt8) {
        let sleeps = state.withLock { state -> Bool in
            let shift = UInt16(offset * 8)
            let control = state.saved.control & ~(0xFF << shift) | UInt16(value) << shift
            state.saved.control = control & Control.kept
            return control & Control.sleepEnable != 0 && control >> 10 & 7 == UInt16(Self.softOff)
        }
        if sleeps { end.request(.poweredOff) }
    }

    private func readGeneral(_ offset: Int) -> UInt8 {
        state.withLock { offset == 0 ? $0.saved.generalStatus : $0.saved.generalEnable }
    }

    private func writeGeneral(_ offset: Int, _ value: UInt8) {
        state.withLock { state in
            if offset == 0 {
                state.saved.generalStatus &= ~value
            } else {
                state.saved.generalEnable = value
            }
            update(&state)
        }
    }

    private func update(_ state: inout State) {
        guard !state.isQuiesced else { return }
        let saved = state.saved
        let level = saved.eventStatus & saved.eventEnable != 0 || saved.generalStatus & saved.generalEnable != 0
        guard level != state.level else { return }
        state.level = level
        setLine(level)
    }

    // MARK: State

    func quiesce() { state.withLock { $0.isQuiesced = true } }

    func unquiesce() {
        state.withLock { state in
            state.isQuiesced = false
            update(&state)
        }
    }

    func save() throws -> StateSection {
        StateSection(name: name, version: version, bytes: try state.withLock { try $0.saved.encoded() })
    }

    /// `unquiesce` sets the line anew.
    func load(_ section: StateSection) throws {
        let saved = try PowerState(decoding: section.bytes, version: section.version)
        state.withLock { $0.saved = saved }
    }
}

/// Registers of a byte each: wider accesses are several, lowest first.
private final class Block: PortDevice {
    private let read: @Sendable (Int) -> UInt8
    private let write: @Sendable (Int, UInt8) -> Void

    init(read: @escaping @Sendable (Int) -> UInt8, write: @escaping @Sendable (Int, UInt8) -> Void) {
        self.read = read
        self.write = write
    }

    func readPort(offset: UInt16, size: Int) -> UInt32 {
        var value: UInt32 = 0
        for index in 0..<size { value |= UInt32(read(Int(offset) + index)) << UInt32(index * 8) }
        return value
    }

    func writePort(offset: UInt16, size: Int, value: UInt32) {
        for index in 0..<size {
            write(Int(offset) + index, UInt8(truncatingIfNeeded: value >> UInt32(index * 8)))
        }
    }
}
