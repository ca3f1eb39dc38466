/// A virtio device before its machine is there: what the guest is promised, and what was opened for it on this host.

import Migrate
import VMState
import Virtio

/// Opened, but not yet locked: at a destination, the source still has the disks.
struct VirtioPart: Sendable {
    enum Backing: Sendable {
        case disk(BlockFile)
        case network(NetworkPort, MACAddress)
        case none
    }

    /// "block.0".
    let name: String
    let settings: DeviceSettings
    let backing: Backing

    var disk: BlockFile? {
        if case .disk(let file) = backing { file } else { nil }
    }

    func configuration() throws -> MachineConfiguration.Device {
        MachineConfiguration.Device(
            name: name, version: VirtioDevice.stateVersion, settings: try settings.encoded())
    }

    // MARK: Of a new machine

    /// Opens what the devices of a new machine need.
    static func parts(for devices: [VirtualDevice]) throws(MachineError) -> [VirtioPart] {
        guard devices.count <= VirtualDevice.maximumCount else {
            throw MachineError(
                .invalidOptions,
                "a machine has room for \(VirtualDevice.maximumCount) virtio devices, not \(devices.count)")
        }
        var parts: [VirtioPart] = []
        for device in devices {
            let settings: DeviceSettings
            let backing: Backing
            do throws(VirtioError) {
                switch device {
                case .disk(let path, let isReadOnly, let serial):
                    let file = try BlockFile(path, readOnly: isReadOnly)
                    settings = .block(
                        path: path, byteCount: file.byteCount, isReadOnly: isReadOnly, serial: serial)
                    backing = .disk(file)
                case .network(let tap, let mac):
                    settings = .network(tap: tap, mac: mac.bytes)
                    backing = .network(try NetworkPort(tap: tap), mac)
                case .entropy: (settings, backing) = (.entropy, .none)
                case .console: (settings, backing) = (.console, .none)
                case .balloon: (settings, backing) = (.balloon, .none)
                }
            } catch {
                throw MachineError(.deviceUnavailable, error.message)
            }
            let number = parts.count { $0.settings.kind == settings.kind }
            parts.append(VirtioPart(name: "\(settings.kind).\(number)", settings: settings, backing: backing))
        }
        if let reason = conflict(in: parts) { throw MachineError(.deviceUnavailable, reason) }
        return parts
    }

    // MARK: Of a machine that comes from elsewhere

    /// Opens what a configuration needs here, and collects what speaks against it.
    static func parts(
        for devices: [MachineConfiguration.Device], host: HostOptions, reasons: inout [String]
    ) -> [VirtioPart] {
        var parts: [VirtioPart] = []
        for device in devices where !DeviceSet.known.contains(where: { $0.name == device.name }) {
            guard DeviceSettings.kinds.contains(where: { device.name.hasPrefix($0 + ".") }) else {
                reasons.append("this machine has no device \(device.name)")
                continue
            }
            do {
                let settings = try DeviceSettings(decoding: device.settings)
                let number = parts.count { $0.settings.kind == settings.kind }
                guard device.name == "\(settings.kind).\(number)" else {
                    reasons.append("its device \(device.name) is set up as \(settings.kind).\(number)")
                    continue
                }
                let backing = try open(settings, number: number, host: host)
                parts.append(VirtioPart(name: device.name, settings: settings, backing: backing))
            } catch let error as StateError {
                reasons.append("device \(device.name): \(error.description)")
            } catch {
                reasons.append("device \(device.name): \(error)")
            }
        }
        if parts.count > VirtualDevice.maximumCount {
            reasons.append(
                "it has \(parts.count) virtio devices, and there is room for \(VirtualDevice.maximumCount)")
        }
        for number in host.diskPaths.keys.sorted() where number >= parts.count(where: { $0.disk != nil }) {
            reasons.append("it has no disk \(number), for which a path was given here")
        }
        let networkCount = parts.count { if case .network = $0.settings { true } else { false } }
        for number in host.tapNames.keys.sorted() where number >= networkCount {
            reasons.append("it has no network card \(number), for which a tap was given here")
        }
        if let reason = conflict(in: parts) { reasons.append(reason) }
        return parts
    }

    private static func open(
        _ settings: DeviceSettings, number: Int, host: HostOptions
    ) throws -> Backing {
        switch settings {
        case .block(let path, let byteCount, let isReadOnly, _):
            guard let here = host.diskPaths[number] ?? (host.opensWhatSourceNames ? path : nil) else {
                throw MachineError(
                    .deviceUnavailable, "nobody said where disk \(number) is on this host (at the source it is \(path))"
                )
            }
            let file = try BlockFile(here, readOnly: isReadOnly)
            guard file.byteCount >= byteCount else {
                throw MachineError(
                    .deviceUnavailable,
                    "\(here) has \(file.byteCount) bytes, and the disk of the VM has \(byteCount)")
            }
            return .disk(file)
        case .network(let tap, let mac):
            guard let address = MACAddress(mac) else {
                throw MachineError(.deviceUnavailable, "its MAC address cannot be that of a network card")
            }
            guard let here = host.tapNames[number] ?? (host.opensWhatSourceNames ? tap : nil) else {
                throw MachineError(
                    .deviceUnavailable,
                    "nobody said which tap network card \(number) has on this host (at the source it is \(tap))")
            }
            return .network(try NetworkPort(tap: here), address)
        case .entropy, .console, .balloon: return .none
        }
    }

    /// One file as two disks would be written by two, each unaware of the other.
    private static func conflict(in parts: [VirtioPart]) -> String? {
        let files = parts.compactMap(\.disk)
        for (index, file) in files.enumerated() {
            for other in files[..<index] where other.identity == file.identity {
                if !(file.isReadOnly && other.isReadOnly) {
                    return "\(other.path) and \(file.path) are the same disk"
                }
            }
        }
        return nil
    }
}
