/// From a machine's configuration to its devices: the same on the host where it begins and wherever it goes.

import KVM
import Logging
import Migrate
import VMState
import Virtio

/// The devices of one machine, in the order of its configuration.
struct DeviceSet {
    let all: [any Device]
    let serial: SerialPort
    let generation: GenerationID?
    /// A virtio console, which then takes the input that the serial port would get.
    let console: ConsoleDevice?

    /// Devices that are there once or not at all, and the newest state of each that this program knows.
    static let known: [(name: String, version: UInt32, isNeeded: Bool)] = [
        (SerialPort.deviceName, SerialState.version, true),
        (RealTimeClock.deviceName, ClockChipState.version, false),
        (PowerController.deviceName, PowerState.version, false),
        (GenerationID.deviceName, GenerationState.version, false),
    ]

    /// What a new machine has besides its virtio devices.
    static func platform(isPC: Bool) -> [MachineConfiguration.Device] {
        known.filter { $0.isNeeded || isPC }.map { MachineConfiguration.Device(name: $0.name, version: $0.version) }
    }

    /// Makes the devices of a configuration that was checked, and puts them in their places.
    init(
        _ configuration: [MachineConfiguration.Device], parts: [VirtioPart], vm: VirtualMachine, ram: GuestRAM,
        console: SerialConsole, end: GuestEnd, buses: Buses, logger: Logger
    ) throws {
        let serial = SerialPort(vm: vm, console: console)
        var devices: [any Device] = []
        let names = Set(configuration.map(\.name))
        var generation: GenerationID?
        let power = PowerController(end: end) { try? vm.setInterruptLine(PowerController.line, level: $0) }
        for device in configuration {
            switch device.name {
            case SerialPort.deviceName: devices.append(serial)
            case RealTimeClock.deviceName: devices.append(RealTimeClock())
            case PowerController.deviceName: devices.append(power)
            case GenerationID.deviceName where names.contains(PowerController.deviceName):
                let made = GenerationID(ram: ram, power: power)
                generation = made
                devices.append(made)
            default: break
            }
        }
        var virtioConsole: ConsoleDevice?
        for (slot, part) in parts.enumerated() {
            let adapter = try VirtioAdapter(part, slot: slot, vm: vm, ram: ram, console: console, logger: logger)
            virtioConsole = virtioConsole ?? adapter.console
            devices.append(adapter)
        }
        for device in devices { device.realise(on: buses) }
        all = devices
        self.serial = serial
        self.generation = generation
        self.console = virtioConsole
    }
}
