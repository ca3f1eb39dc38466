/// How far the clocks of two hosts are apart, as the destination sees it.

import Glibc

/// The destination's CLOCK_REALTIME minus the source's. Each record of the source's clock gives that difference and the
/// time that the record was on its way; the least of them all is nearest, and too large by the fastest way at most.
package struct PeerClock: Sendable {
    private let boot: [UInt8]
    private var least: Int64?
    private var isShared = false

    /// - Parameter boot: names the kernel that runs here.
    package init(boot: [UInt8] = HostClock.boot) { self.boot = boot }

    /// Takes in a record that came at this instant (CLOCK_REALTIME, nanoseconds).
    package mutating func hear(_ record: ClockRecord, atNanoseconds now: UInt64) {
        isShared = record.boot == boot && boot.contains { $0 != 0 }
        // A clock that counts past the year 2262 is no clock.
        guard let there = Int64(exactly: record.realtimeNanoseconds), let here = Int64(exactly: now) else { return }
        least = min(least ?? .max, here - there)
    }

    /// Nanoseconds; 0 on one host, and as long as nothing was heard.
    package var offset: Int64 { isShared ? 0 : least ?? 0 }
}

/// This host's clock.
package enum HostClock {
    /// The running kernel's name, 16 bytes; zeros if it cannot be read.
    package static let boot: [UInt8] = {
        let none = [UInt8](repeating: 0, count: ClockRecord.bootLength)
        let file = unsafe open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return none }
        defer { close(file) }
        var text = [UInt8](repeating: 0, count: 64)
        let count = unsafe read(file, &text, text.count)
        let digits = text.prefix(max(count, 0)).compactMap { Character(Unicode.Scalar($0)).hexDigitValue }
        guard digits.count == 2 * none.count else { return none }
        return none.indices.map { UInt8(digits[2 * $0] << 4 | digits[2 * $0 + 1]) }
    }()

    /// CLOCK_REALTIME in nanoseconds.
    package static var realtimeNanoseconds: UInt64 {
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        return UInt64(clamping: time.tv_sec) * 1_000_000_000 + UInt64(clamping: time.tv_nsec)
    }

    /// What is said to the peer.
    static var record: ClockRecord { ClockRecord(realtimeNanoseconds: realtimeNanoseconds, boot: boot) }
}
