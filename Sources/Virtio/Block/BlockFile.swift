/// The file or block device behind a virtual disk: opened, described and locked in separate steps, so that a migration
/// can open it at its destination while the source still has it.

import CLibURing
import Glibc

/// A raw disk image, or a block device. Opening takes no lock; `lock` does.
public final class BlockFile: Sendable {
    /// Two descriptions with the same identity are the same disk, on one host.
    public struct Identity: Hashable, Sendable {
        /// st_dev of a regular file, st_rdev of a block device.
        public var device: UInt64
        /// 0 for a block device.
        public var inode: UInt64
    }

    public let path: String
    public let isReadOnly: Bool
    public let isBlockDevice: Bool
    public let identity: Identity
    /// The size when it was opened.
    public let byteCount: UInt64

    /// Through the page cache; it also holds the lock, and stays usable where direct I/O does not fit.
    let descriptor: CInt
    /// With O_DIRECT, where the file system has that.
    let directDescriptor: CInt?
    let directMemoryAlignment: UInt64
    let directOffsetAlignment: UInt64

    public static let sectorByteCount: UInt64 = 512
    /// What a guest sees of it: a last sector that is cut off is left away.
    public var sectorCount: UInt64 { byteCount / Self.sectorByteCount }
    /// Whether requests that are aligned bypass the page cache.
    public var isDirect: Bool { directDescriptor != nil }

    /// `allowsDirect` false keeps to the page cache.
    public init(_ path: String, readOnly: Bool, allowsDirect: Bool = true) throws(VirtioError) {
        let opened = unsafe cur_open_file(path, !readOnly, false)
        guard opened >= 0 else {
            throw VirtioError(.unusable, "cannot open \(path)\(readOnly ? "" : " for writing")", errno: -opened)
        }
        var info = cur_file_info()
        let described = unsafe cur_file_info(opened, &info)
        guard described == 0, info.is_regular || info.is_block_device else {
            close(opened)
            if described < 0 { throw VirtioError(.unusable, "cannot examine \(path)", errno: -described) }
            throw VirtioError(.unusable, "\(path) is neither a regular file nor a block device")
        }
        guard info.size >= Self.sectorByteCount, info.size <= UInt64(Int64.max) else {
            close(opened)
            throw VirtioError(.unusable, "\(path) is \(info.size) bytes long: a disk has at least one sector of 512")
        }
        // tmpfs before Linux 6.6 and some network file systems refuse O_DIRECT.
        let direct = allowsDirect ? unsafe cur_open_file(path, !readOnly, true) : -EINVAL
        self.path = path
        isReadOnly = readOnly
        isBlockDevice = info.is_block_device
        identity = Identity(device: info.device, inode: info.inode)
        byteCount = info.size
        descriptor = opened
        directDescriptor = direct >= 0 ? direct : nil
        // 512 where the kernel does not say (before Linux 6.1): a request that fits it not is tried once more, buffered.
        directMemoryAlignment = info.direct_memory_alignment > 0 ? UInt64(info.direct_memory_alignment) : 512
        directOffsetAlignment = info.direct_offset_alignment > 0 ? UInt64(info.direct_offset_alignment) : 512
    }

    deinit {
        close(descriptor)
        if let directDescriptor { close(directDescriptor) }
    }

    /// Keeps other VMs off the disk: exclusively, or, for a read-only disk, those that would write. The lock belongs to
    /// this object and ends with it (an open file description lock, which also QEMU and util-linux's tools respect).
    public func lock() throws(VirtioError) {
        let result = cur_lock_file(descriptor, !isReadOnly)
        if result == -EAGAIN {
            throw VirtioError(
                .inUse,
                isReadOnly
                    ? "\(path) is in use by another VM, which writes to it; stop that VM first"
                    : "\(path) is in use by another VM; stop that VM first")
        }
        guard result == 0 else { throw VirtioError(.hostRefused, "cannot lock \(path)", errno: -result) }
    }

    /// Lets others lock it. Harmless without a lock.
    public func unlock() { _ = cur_unlock_file(descriptor) }

    /// Makes all that was written stable.
    public func synchronize() throws(VirtioError) {
        let result = cur_fdatasync(descriptor)
        guard result == 0 else { throw VirtioError(.hostRefused, "cannot flush \(path)", errno: -result) }
    }
}
