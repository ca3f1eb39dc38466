/// The host's end of a network device: a tap interface, or any descriptor that passes frames as one does.

import CLibURing
import Glibc

/// Reads and writes whole frames, each behind a virtio header of 12 bytes. Owns its descriptor.
public final class NetworkPort: Sendable {
    /// The header of virtio 1.2, 5.1.6, with the number of buffers.
    public static let headerByteCount = 12

    public let name: String
    let descriptor: CInt
    private let isTap: Bool

    /// An existing tap interface.
    public init(tap name: String) throws(VirtioError) {
        guard unsafe cur_interface_exists(name) else {
            throw VirtioError(
                .unusable,
                "there is no network interface \(name); make one as root: "
                    + "ip tuntap add mode tap name \(name) user $USER vnet_hdr && ip link set \(name) up")
        }
        let opened = unsafe cur_open_tap(name, CInt(Self.headerByteCount))
        guard opened >= 0 else {
            if opened == -EBUSY { throw VirtioError(.inUse, "the tap interface \(name) is in use by another VM") }
            if opened == -EINVAL {
                throw VirtioError(.unusable, "\(name) is no tap interface, or one with several queues or another owner")
            }
            throw VirtioError(.unusable, "cannot open the tap interface \(name)", errno: -opened)
        }
        self.name = name
        descriptor = opened
        isTap = true
    }

    /// A descriptor that keeps frames apart, such as a datagram socket; taken over, and made non-blocking.
    public init(adopting descriptor: CInt, name: String) throws(VirtioError) {
        let result = cur_set_nonblocking(descriptor)
        guard result >= 0 else {
            throw VirtioError(.unusable, "descriptor \(descriptor) cannot carry frames", errno: -result)
        }
        self.name = name
        self.descriptor = descriptor
        isTap = false
    }

    deinit { close(descriptor) }

    /// Which unfinished frames the reader takes: without checksum, or longer than the wire allows.
    func setOffload(checksum: Bool, tso4: Bool, tso6: Bool) -> CInt {
        isTap ? cur_set_tap_offload(descriptor, checksum, tso4, tso6) : 0
    }
}

/// An Ethernet address.
public struct MACAddress: Equatable, Sendable {
    public let bytes: [UInt8]

    /// nil unless these are six bytes of an address for one interface.
    public init?(_ bytes: [UInt8]) {
        guard bytes.count == 6, bytes[0] & 1 == 0, bytes.contains(where: { $0 != 0 }) else { return nil }
        self.bytes = bytes
    }

    /// "52:54:00:12:34:56".
    public init?(_ text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        let bytes = parts.compactMap { $0.count == 2 && $0.allSatisfy(\.isHexDigit) ? UInt8($0, radix: 16) : nil }
        guard bytes.count == parts.count else { return nil }
        self.init(bytes)
    }
}

extension MACAddress: CustomStringConvertible {
    public var description: String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: ":")
    }
}

extension MACAddress {
    /// A reverse ARP request from this address to all: bridges and switches learn from it where the address is now. The
    /// form that QEMU's hosts send after a migration; nobody answers it.
    var reverseARP: [UInt8] {
        var frame = [UInt8](repeating: 0xFF, count: 6) + bytes
        frame += [0x80, 0x35]  // RARP (RFC 903)
        frame += [0, 1, 8, 0, 6, 4, 0, 3]  // Ethernet, IPv4, lengths, "request reverse"
        frame += bytes + [0, 0, 0, 0] + bytes + [0, 0, 0, 0]
        return frame + [UInt8](repeating: 0, count: 60 - frame.count)
    }
}
