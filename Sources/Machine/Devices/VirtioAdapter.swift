/// A virtio device in its slot: between the machine's interface and the device's own.

import KVM
import Logging
import Migrate
import VMState
import Virtio

/// One page of registers, one interrupt line, one section of state.
final class VirtioAdapter: Device, MemoryDevice {
    let name: String
    let version = VirtioDevice.stateVersion
    let disk: BlockFile?
    /// The console among the devices takes input.
    let console: ConsoleDevice?
    private let slot: Int
    private let device: VirtioDevice
    private let network: NetworkDevice?

    init(
        _ part: VirtioPart, slot: Int, vm: VirtualMachine, ram: GuestRAM, console output: SerialConsole, logger: Logger
    ) throws {
        var console: ConsoleDevice?
        var network: NetworkDevice?
        let backend: any VirtioBackend
        switch (part.settings, part.backing) {
        case (.block(_, _, _, let serial), .disk(let file)): backend = BlockDevice(file: file, serial: serial)
        case (.network, .network(let port, let mac)):
            let made = NetworkDevice(port: port, mac: mac)
            network = made
            backend = made
        case (.entropy, _): backend = EntropyDevice()
        case (.console, _):
            let made = ConsoleDevice { output.write($0) }
            console = made
            backend = made
        case (.balloon, _): backend = BalloonDevice()
        default: throw MachineError(.deviceUnavailable, "device \(part.name) has nothing behind it")
        }
        name = part.name
        disk = part.disk
        self.console = console
        self.network = network
        self.slot = slot
        let line = VirtioSlot.line(slot)
        let label = part.name
        device = try VirtioDevice(
            backend: backend, memory: ram,
            // The line exists as long as the machine does: this cannot fail.
            setInterrupt: { level in try? vm.setInterruptLine(line, level: level) },
            log: { logger.warning("\(label): \($0)") })
    }

    func realise(on buses: Buses) {
        let start = VirtioSlot.address(slot)
        buses.memory.add(start..<start + VirtioSlot.byteCount, self)
    }

    func readMemory(offset: UInt64, size: Int) -> UInt64 { device.readRegister(offset: offset, size: size) }

    func writeMemory(offset: UInt64, size: Int, value: UInt64) {
        device.writeRegister(offset: offset, size: size, value: value)
    }

    func quiesce() { device.quiesce() }
    func unquiesce() { device.unquiesce() }

    /// The network learns where the guest is now.
    func announceArrival() { network?.announce() }

    func save() throws -> StateSection { StateSection(name: name, version: version, bytes: try device.save()) }
    func load(_ section: StateSection) throws { try device.load(section.bytes, version: section.version) }
}
