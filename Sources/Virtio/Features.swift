/// Bits that driver and device agree about (virtio 1.2, 2.1, 2.2 and 6).

/// Features that belong to the queues and the transport, not to a device.
public enum Feature {
    public static let indirectDescriptors: UInt64 = 1 << 28
    public static let eventIndex: UInt64 = 1 << 29
    /// Not the legacy interface. A driver must accept it.
    public static let version1: UInt64 = 1 << 32

    /// What every device here offers.
    static let common = indirectDescriptors | eventIndex | version1
}

/// The device status.
public enum DeviceStatus {
    public static let acknowledge: UInt8 = 1
    public static let driver: UInt8 = 2
    public static let driverOK: UInt8 = 4
    public static let featuresOK: UInt8 = 8
    public static let needsReset: UInt8 = 64
    public static let failed: UInt8 = 128

    /// What a driver may set.
    static let settable = acknowledge | driver | driverOK | featuresOK | failed
}

/// Why the interrupt line is high.
public enum InterruptCause {
    public static let usedBuffers: UInt8 = 1
    public static let configuration: UInt8 = 2
}
