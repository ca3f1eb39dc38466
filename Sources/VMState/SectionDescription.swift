/// Any section of a stream, for people.

extension StateDescription {
    /// What `migratectl inspect` prints of a section, by its name ("vcpu.0", "irqchip", "serial.0"). nil for a kind of
    /// section that this program does not know.
    public init?(section name: String, version: UInt32, bytes: [UInt8]) throws(StateError) {
        guard let kind = name.split(separator: ".", maxSplits: 1).first else { return nil }
        switch kind {
        case "vcpu": self = try VCPUState(decoding: bytes, version: version).stateDescription
        case "irqchip": self = try IRQChipState(decoding: bytes, version: version).stateDescription
        case "pit": self = try PITState(decoding: bytes, version: version).stateDescription
        case "clock": self = try ClockState(decoding: bytes, version: version).stateDescription
        case "serial": self = try SerialState(decoding: bytes, version: version).stateDescription
        case "rtc": self = try ClockChipState(decoding: bytes, version: version).stateDescription
        case "acpi": self = try PowerState(decoding: bytes, version: version).stateDescription
        case "genid": self = try GenerationState(decoding: bytes, version: version).stateDescription
        case "virtio", "block", "net", "rng", "console", "balloon":
            self = try VirtioState(decoding: bytes, version: version).stateDescription
        default: return nil
        }
    }
}
