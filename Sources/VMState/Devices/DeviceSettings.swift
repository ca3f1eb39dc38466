/// How a virtio device was set up: the part of a VM's configuration from which another host builds the same device.

import StateSchema
import SwiftProtobuf

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// What the guest was promised of a device (`MachineConfiguration.Device.settings`).
public enum DeviceSettings: Equatable, Sendable {
    /// `path` is what the source calls the file; the destination's own may be another.
    case block(path: String, byteCount: UInt64, isReadOnly: Bool, serial: String)
    /// `mac` has 6 bytes; `tap` is the source's interface.
    case network(tap: String, mac: [UInt8])
    case entropy
    case console
    case balloon

    /// The stream carries no more than this for a device.
    public static let maximumByteCount = 2 << 10
    private static let maximumSerialByteCount = 20
    private static let maximumTapByteCount = 15

    public func encoded() throws(StateError) -> [UInt8] {
        var wire = WireDeviceSettings()
        switch self {
        case .block(let path, let byteCount, let isReadOnly, let serial):
            wire.block.path = path
            wire.block.byteCount = byteCount
            wire.block.readOnly = isReadOnly
            wire.block.serial = serial
        case .network(let tap, let mac):
            wire.network.tap = tap
            wire.network.mac = Data(mac)
        case .entropy: wire.entropy = WireEntropySettings()
        case .console: wire.console = WireConsoleSettings()
        case .balloon: wire.balloon = WireBalloonSettings()
        }
        let bytes = try SectionCoder.encode(wire, "device settings")
        guard bytes.count <= Self.maximumByteCount else {
            throw StateError(.invalidValue, "a device's settings are longer than \(Self.maximumByteCount) bytes")
        }
        return bytes
    }

    public init(decoding bytes: [UInt8]) throws(StateError) {
        let part = "device settings"
        let wire = try SectionCoder.decode(
            WireDeviceSettings.self, bytes, version: 1, newest: 1, limit: Self.maximumByteCount, part)
        let checker = WireChecker(part: part)
        switch wire.kind {
        case .block(let block):
            try checker.require(!block.path.utf8.contains(0), "path", "a zero byte")
            try checker.require(block.byteCount > 0, "size", "\(block.byteCount)")
            try checker.require(
                block.serial.utf8.count <= Self.maximumSerialByteCount, "serial", "\(block.serial.utf8.count) bytes")
            self = .block(
                path: block.path, byteCount: block.byteCount, isReadOnly: block.readOnly, serial: block.serial)
        case .network(let network):
            try checker.require(
                (1...Self.maximumTapByteCount).contains(network.tap.utf8.count)
                    && !network.tap.utf8.contains { $0 == 0 || $0 == UInt8(ascii: "/") }, "tap name", network.tap)
            try checker.require(network.mac.count == 6, "MAC address", "\(network.mac.count) bytes")
            self = .network(tap: network.tap, mac: [UInt8](network.mac))
        case .entropy: self = .entropy
        case .console: self = .console
        case .balloon: self = .balloon
        case nil:
            throw StateError(.unsupportedVersion, "device settings are of a kind that this migratectl does not know")
        }
    }

    /// Every kind that there is.
    public static let kinds = ["block", "net", "rng", "console", "balloon"]

    /// What its devices are called, with a number behind: "block.0".
    public var kind: String {
        switch self {
        case .block: "block"
        case .network: "net"
        case .entropy: "rng"
        case .console: "console"
        case .balloon: "balloon"
        }
    }
}
