/// The CONFIGURATION record: encoding and checked decoding.

import Units

extension MachineConfiguration {
    func encode(into encoder: inout PayloadEncoder) {
        encoder.put(string: name)
        encoder.put(raw: identifier)
        encoder.put(UInt32(pageByteCount))
        encoder.put(UInt32(vcpuCount))
        encoder.put(UInt32(memory.count))
        for region in memory {
            encoder.put(region.guestAddress.rawValue)
            encoder.put(region.byteCount)
        }
        encoder.put(bytes: cpuPolicy)
        // A machine whose devices have no settings is written as the first programs wrote it, so that they can read it.
        let haveSettings = devices.contains { !$0.settings.isEmpty }
        encoder.put(UInt32(devices.count) | (haveSettings ? Self.settingsFollow : 0))
        for device in devices {
            encoder.put(string: device.name)
            encoder.put(device.version)
            if haveSettings { encoder.put(bytes: device.settings) }
        }
    }

    /// In the count of devices: each has its settings behind its version.
    private static let settingsFollow: UInt32 = 1 << 31

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        name = try decoder.string(limit: StreamFormat.nameLimit)
        guard !name.isEmpty else { throw decoder.error(.invalid, "the VM has no name") }
        identifier = try decoder.raw(16)
        let pageSize = try decoder.uint32()
        guard pageSize == UInt32(pageByteCount) else {
            throw decoder.error(.invalid, "pages of \(pageSize) bytes; this program knows pages of \(pageByteCount)")
        }
        let vcpus = try decoder.uint32()
        guard 1...UInt32(StreamFormat.vcpuLimit) ~= vcpus else {
            throw decoder.error(.invalid, "\(vcpus) vCPUs, where 1 to \(StreamFormat.vcpuLimit) are possible")
        }
        vcpuCount = Int(vcpus)
        memory = try Self.memory(from: &decoder)
        cpuPolicy = try decoder.lengthPrefixed(limit: 1 << 20)
        let countAndFlag = try decoder.uint32()
        let (deviceCount, haveSettings) = (countAndFlag & ~Self.settingsFollow, countAndFlag & Self.settingsFollow != 0)
        guard deviceCount <= StreamFormat.deviceLimit else {
            throw decoder.error(.tooLarge, "\(deviceCount) devices, more than \(StreamFormat.deviceLimit)")
        }
        devices = []
        for _ in 0..<deviceCount {
            let name = try decoder.string(limit: StreamFormat.nameLimit)
            let version = try decoder.uint32()
            let settings = haveSettings ? try decoder.lengthPrefixed(limit: StreamFormat.settingsLimit) : []
            devices.append(Device(name: name, version: version, settings: settings))
        }
        guard !haveSettings || devices.contains(where: { !$0.settings.isEmpty }) else {
            throw decoder.error(.invalid, "announces settings of its devices, and none has any")
        }
    }

    /// Regions: page-aligned, ascending, disjoint, within the address space.
    private static func memory(from decoder: inout PayloadDecoder) throws(StreamError) -> [Memory] {
        let count = try decoder.uint32()
        guard 1...UInt32(StreamFormat.regionLimit) ~= count else {
            throw decoder.error(
                .invalid, "\(count) memory regions, where 1 to \(StreamFormat.regionLimit) are possible")
        }
        var regions: [Memory] = []
        var lowest: UInt64 = 0
        for _ in 0..<count {
            let address = try decoder.uint64()
            let length = try decoder.uint64()
            let (end, wraps) = address.addingReportingOverflow(length)
            // 2^48 pages' worth is what a page number of the digest has room for; x86-64 ends at 2^52 bytes.
            guard length > 0, !wraps, end <= 1 << 52,
                address % UInt64(pageByteCount) == 0, length % UInt64(pageByteCount) == 0
            else {
                throw decoder.error(
                    .invalid, "a memory region of \(length) bytes at \(GuestAddress(address)) makes no sense")
            }
            guard address >= lowest else {
                throw decoder.error(.invalid, "memory regions overlap or are out of order")
            }
            lowest = end
            regions.append(Memory(guestAddress: GuestAddress(address), byteCount: length))
        }
        return regions
    }
}
