import CSelfTest
import Units

/// The test guest's PVH ELF image: what our own machine loads, and what a peer boots with `-kernel`.
public enum SelfTestImage {
    /// The whole ELF file.
    public static var bytes: [UInt8] {
        unsafe withUnsafeBytes { bytes in unsafe [UInt8](bytes) }
    }

    /// The ELF file without a copy. The bytes live as long as the process and never change.
    public static func withUnsafeBytes<Result>(_ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
        try unsafe body(UnsafeRawBufferPointer(start: selftest_image(), count: selftest_image_size()))
    }

    /// Where the image is loaded. It occupies memory up to `endAddress`; the memory map must have RAM from here to well
    /// above it.
    public static let loadAddress = GuestAddress(UInt64(SELFTEST_LOAD_ADDRESS))

    /// The most vCPUs that the guest can use.
    public static let maximumCPUCount = Int(SELFTEST_MAX_VCPUS)

    /// The port that the guest writes to when it ends, and the values that it writes.
    public static let exitPort = UInt16(SELFTEST_EXIT_PORT)

    /// The shared page and the vCPU entries behind it: what `SelfTestHeartbeat` reads.
    public static let sharedAddress = GuestAddress(UInt64(SELFTEST_SHARED_ADDRESS))

    /// How many bytes from `sharedAddress` on `SelfTestHeartbeat` wants to see for a number of vCPUs.
    public static func sharedByteCount(cpuCount: Int) -> Int {
        Int(SELFTEST_VCPU_ADDRESS - SELFTEST_SHARED_ADDRESS)
            + min(max(cpuCount, 0), maximumCPUCount) * Int(SELFTEST_VCPU_BYTES)
    }
}

/// How a run of the guest ended, as written to `SelfTestImage.exitPort`.
public enum SelfTestVerdict: UInt8, Sendable, Codable {
    /// Everything was as it should be.
    case pass = 0
    /// Something was lost, stale, torn or went backwards; the report says what.
    case fail = 1
    /// The guest could not run: a wrong option, too little memory, an exception that nobody expected.
    case fatal = 2
}
