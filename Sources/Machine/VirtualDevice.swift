/// The virtio devices that a machine can be given.

import Virtio

/// A virtio device to be made on this host.
public enum VirtualDevice: Equatable, Sendable {
    /// A raw image or block device. `serial` is what the guest reads as its serial number, up to 20 bytes.
    case disk(path: String, isReadOnly: Bool = false, serial: String = "")
    /// A network card on a tap interface that exists.
    case network(tap: String, mac: MACAddress)
    /// A source of random numbers.
    case entropy
    case balloon
    /// A console (hvc0), which then takes the input that the serial port would get.
    case console

    /// As many as a machine has slots for.
    public static let maximumCount = VirtioSlot.count

    /// An address that no other card has, most likely, in the range that virtual machines use. Nil never.
    public static func randomMAC() -> MACAddress? {
        var generator = SystemRandomNumberGenerator()
        return MACAddress([0x52, 0x54, 0x00] + (0..<3).map { _ in UInt8.random(in: .min ... .max, using: &generator) })
    }
}
