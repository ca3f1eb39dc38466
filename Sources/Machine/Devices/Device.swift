/// What every device of a machine is.

import KVM
import Migrate

/// An emulated device. It saves nothing that it can rebuild from the machine's configuration.
protocol Device: AnyObject, Sendable {
    /// "serial.0": unique in the machine; the name of its saved state too.
    var name: String { get }
    /// The version of the state that it saves.
    var version: UInt32 { get }

    /// Takes its place in the machine, before any vCPU runs.
    func realise(on buses: Buses)
    /// The vCPUs stand still. Finishes what is under way; from now on nothing of it, nor of guest memory, changes.
    func quiesce()
    /// Undoes `quiesce`, before the vCPUs run again.
    func unquiesce()
    /// After `unquiesce`, where the machine came from another host: once, before the vCPUs run.
    func announceArrival()
    /// Of a quiesced device.
    func save() throws -> StateSection
    /// Into a quiesced device, after the interrupt controllers have their state.
    func load(_ section: StateSection) throws
}

extension Device {
    func announceArrival() {}
}

/// Where devices take their places.
struct Buses {
    let ports = PortBus()
    let memory = MemoryBus()
}

/// A device that answers port I/O. Called by any vCPU's thread.
package protocol PortDevice: AnyObject, Sendable {
    /// `offset` counts from the start of the device's range; `size` is 1, 2 or 4 bytes.
    func readPort(offset: UInt16, size: Int) -> UInt32
    func writePort(offset: UInt16, size: Int, value: UInt32)
}

/// The ports of a machine. Filled before any vCPU runs, and only read afterwards.
final class PortBus: @unchecked Sendable {
    private var ranges: [(ports: ClosedRange<UInt16>, device: any PortDevice)] = []

    /// Gives ports to a device. Two devices at one port are a mistake in this program.
    func add(_ ports: ClosedRange<UInt16>, _ device: any PortDevice) {
        precondition(!ranges.contains { $0.ports.overlaps(ports) })
        ranges.append((ports, device))
    }

    /// Carries out an access. Where no device is, reads give all ones and writes go nowhere, as on a PC.
    func perform(_ access: PortAccess) {
        let entry = ranges.first { $0.ports.contains(access.port) }
        for index in 0..<access.count {
            guard let entry else {
                if !access.isWrite { access[index] = .max }
                continue
            }
            let offset = access.port - entry.ports.lowerBound
            if access.isWrite {
                entry.device.writePort(offset: offset, size: access.size, value: access[index])
            } else {
                access[index] = entry.device.readPort(offset: offset, size: access.size)
            }
        }
    }
}
