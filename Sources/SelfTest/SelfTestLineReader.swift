/// Cuts the guest's serial output into lines and reads them, however the bytes arrive.
public struct SelfTestLineReader: Sendable {
    /// All that the guest has said so far.
    public private(set) var report = SelfTestReport()

    private var line: [UInt8] = []

    /// A longer line is not one of the guest's; its end is awaited without keeping it.
    private static let longestLine = 4096

    public init() {}

    /// Takes in bytes from the serial line and returns the events whose lines they complete.
    public mutating func append(_ bytes: some Sequence<UInt8>) -> [SelfTestEvent] {
        var events: [SelfTestEvent] = []
        for byte in bytes {
            guard byte == UInt8(ascii: "\n") else {
                if line.count <= Self.longestLine { line.append(byte) }
                continue
            }
            if line.count <= Self.longestLine, let event = SelfTestEvent(line: String(decoding: line, as: UTF8.self)) {
                report.add(event)
                events.append(event)
            }
            line.removeAll(keepingCapacity: true)
        }
        return events
    }
}
