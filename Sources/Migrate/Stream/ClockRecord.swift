/// What the source's clock says, so that the destination learns how far the hosts' clocks are apart.

/// Sent now and then while pages go over; optional for readers.
public struct ClockRecord: Equatable, Sendable {
    /// Bytes of a boot's name.
    static let bootLength = 16

    /// CLOCK_REALTIME of the source's host when the record left, in nanoseconds.
    public var realtimeNanoseconds: UInt64
    /// Names the source's running kernel (`/proc/sys/kernel/random/boot_id`); zeros if it cannot be read. Two
    /// processes with the same one share their clocks.
    public var boot: [UInt8]

    package init(realtimeNanoseconds: UInt64, boot: [UInt8]) {
        self.realtimeNanoseconds = realtimeNanoseconds
        self.boot = boot
    }

    func encode(into encoder: inout PayloadEncoder) {
        encoder.put(realtimeNanoseconds)
        encoder.put(raw: boot)
    }

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        realtimeNanoseconds = try decoder.uint64()
        boot = try decoder.raw(Self.bootLength)
    }
}
