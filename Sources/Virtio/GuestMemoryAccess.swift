/// Guest memory as devices see it: by address, checked, and with every write told to the dirty log.

/// RAM by guest physical address. All calls may come from several threads at once.
public protocol GuestMemoryAccess: AnyObject, Sendable {
    /// Copies out of guest memory; throws when the range is not all RAM.
    func copy(from address: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(GuestMemoryError)
    /// Copies into guest memory and marks it written.
    func copy(_ bytes: UnsafeRawBufferPointer, to address: UInt64) throws(GuestMemoryError)
    /// The host mapping of a range that lies in one region, for direct I/O; valid as long as the machine. Who writes
    /// through it calls `markWritten` afterwards.
    func mapping(of address: UInt64, count: Int) throws(GuestMemoryError) -> UnsafeMutableRawBufferPointer
    /// Tells the dirty log of a write through `mapping`. The range is one that `mapping` gave.
    func markWritten(_ address: UInt64, count: Int)
    /// Gives whole pages back to the host: they read as zeros from then on, and are marked written.
    func discard(_ address: UInt64, count: Int) throws(GuestMemoryError)
}

/// A range that is not RAM, or not in one region.
public struct GuestMemoryError: Error, Equatable, Sendable {
    public var address: UInt64
    public var byteCount: Int

    public init(address: UInt64, byteCount: Int) {
        self.address = address
        self.byteCount = byteCount
    }
}

extension GuestMemoryError: CustomStringConvertible {
    public var description: String { "\(byteCount) bytes at \(hex(address)) are not all in one region of guest RAM" }
}

/// "0x1f".
func hex(_ value: some UnsignedInteger & FixedWidthInteger) -> String { "0x" + String(value, radix: 16) }
