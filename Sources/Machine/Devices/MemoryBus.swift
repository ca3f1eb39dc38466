/// Devices that a guest reaches by memory accesses.

import KVM
import Units

/// A device with registers in guest-physical memory. Called by any vCPU's thread.
package protocol MemoryDevice: AnyObject, Sendable {
    /// `offset` counts from the start of the device's range; `size` is 1 to 8 bytes.
    func readMemory(offset: UInt64, size: Int) -> UInt64
    func writeMemory(offset: UInt64, size: Int, value: UInt64)
}

/// The address ranges of a machine's devices. Filled before any vCPU runs, and only read afterwards.
package final class MemoryBus: @unchecked Sendable {
    private var ranges: [(addresses: Range<UInt64>, device: any MemoryDevice)] = []

    package init() {}

    /// Gives a range to a device. Two devices at one address are a mistake in this program.
    package func add(_ addresses: Range<UInt64>, _ device: any MemoryDevice) {
        precondition(!addresses.isEmpty && !ranges.contains { $0.addresses.overlaps(addresses) })
        ranges.append((addresses, device))
        ranges.sort { $0.addresses.lowerBound < $1.addresses.lowerBound }
    }

    /// What a guest reads. All ones where no device is, or only for part of the access.
    package func read(_ address: UInt64, size: Int) -> UInt64 {
        guard let (device, offset) = find(address, size) else { return .max }
        return device.readMemory(offset: offset, size: size)
    }

    package func write(_ address: UInt64, size: Int, value: UInt64) {
        guard let (device, offset) = find(address, size) else { return }
        device.writeMemory(offset: offset, size: size, value: value)
    }

    func perform(_ access: MemoryAccess) {
        if access.isWrite {
            write(access.address.rawValue, size: access.length, value: access.value)
        } else {
            access.value = read(access.address.rawValue, size: access.length)
        }
    }

    private func find(_ address: UInt64, _ size: Int) -> (any MemoryDevice, UInt64)? {
        guard let entry = ranges.first(where: { $0.addresses.contains(address) }),
            UInt64(clamping: size) <= entry.addresses.upperBound - address
        else { return nil }
        return (entry.device, address - entry.addresses.lowerBound)
    }
}
