/// Where the three parts of a split virtqueue lie, and what makes such a place impossible (virtio 1.2, 2.7).

/// The addresses that a driver gave a queue.
struct RingLayout: Equatable, Sendable {
    var size: UInt16
    var descriptors: UInt64
    var driver: UInt64
    var device: UInt64

    static let descriptorByteCount = 16
    static let usedElementByteCount = 8

    var descriptorsByteCount: Int { Self.descriptorByteCount * Int(size) }
    /// Flags, index, the ring, and the word for the event index.
    var driverByteCount: Int { 6 + 2 * Int(size) }
    var deviceByteCount: Int { 6 + Self.usedElementByteCount * Int(size) }

    /// The device writes its event index here: it wants to be told when the driver's index passes it (2.7.10).
    var availableEventOffset: Int { 4 + Self.usedElementByteCount * Int(size) }
    /// The driver's event index.
    var usedEventOffset: Int { 4 + 2 * Int(size) }

    /// Refuses sizes and alignments that the specification rules out.
    func check(maximumSize: UInt16) throws(VirtioFault) {
        guard size > 0, size & (size - 1) == 0, size <= maximumSize else {
            throw VirtioFault("a queue of \(size) entries; it must be a power of two, at most \(maximumSize)")
        }
        guard descriptors % 16 == 0, driver % 2 == 0, device % 4 == 0 else {
            throw VirtioFault(
                "misaligned rings: descriptors at \(hex(descriptors)), available at \(hex(driver)), "
                    + "used at \(hex(device))")
        }
    }
}

/// What a driver did that it must not: the device needs a reset.
public struct VirtioFault: Error, Equatable, Sendable {
    /// One sentence without the device's name.
    public var message: String
    public init(_ message: String) { self.message = message }
    init(_ what: String, _ error: GuestMemoryError) { self.message = "\(what): \(error)" }
}
