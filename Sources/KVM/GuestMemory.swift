/// Mappings that hold guest RAM.

import CKVM
import Glibc
import Units

/// What guest RAM is made of.
public enum MemoryBacking: String, Sendable, CaseIterable, Codable {
    /// Anonymous memory with transparent huge pages.
    case anonymous = "anon"
    /// A memfd, which can be mapped a second time.
    case memfd
    /// A memfd of 2 MiB pages, which the host must have reserved.
    case hugetlb
}

/// One contiguous mapping of guest RAM, all zeros at first; unmapped when the last owner drops it.
@safe
public final class GuestMemory: @unchecked Sendable {
    public let backing: MemoryBacking
    public let byteCount: Int
    /// The first byte; aligned to 2 MiB, so that huge pages of guest and host coincide.
    @unsafe public let base: UnsafeMutableRawPointer
    /// The memfd; nil for anonymous memory.
    private let file: SharedDescriptor?

    /// The alignment and the granule of huge pages.
    public static let hugePageByteCount = 2 << 20

    /// Maps `byteCount` bytes (whole pages; whole huge pages for hugetlb). Nothing is populated yet.
    public convenience init(byteCount: Int, backing: MemoryBacking, name: String = "guest-ram") throws(KVMError) {
        switch backing {
        case .anonymous:
            try self.init(byteCount: byteCount, backing: backing, file: nil)
        case .memfd, .hugetlb:
            let hugeFlags = UInt32(MFD_HUGETLB) | UInt32(21) << 26  // MFD_HUGE_2MB
            let number = unsafe ckvm_memfd_create(name, UInt32(MFD_CLOEXEC) | (backing == .hugetlb ? hugeFlags : 0))
            guard number >= 0 else { throw KVMError(operation: "memfd_create", errno: -number, subject: name) }
            let file = SharedDescriptor(FileDescriptor(adopting: number))
            let result = ckvm_ftruncate(number, byteCount)
            guard result == 0 else { throw KVMError(operation: "ftruncate", errno: -result, subject: name) }
            try self.init(byteCount: byteCount, backing: backing, file: file)
        }
    }

    private init(byteCount: Int, backing: MemoryBacking, file: SharedDescriptor?) throws(KVMError) {
        precondition(byteCount > 0 && byteCount % pageByteCount == 0)
        // Reserve more than needed, cut an aligned piece out of it, map over that.
        let alignment = Self.hugePageByteCount
        let reservedCount = byteCount + alignment
        var reserved: UnsafeMutableRawPointer?
        var result = unsafe ckvm_mmap(
            reservedCount, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0, &reserved)
        guard result == 0, let reserved = unsafe reserved else {
            throw KVMError(operation: "mmap", errno: -result, subject: "\(byteCount) bytes of address space")
        }
        let start = UInt(bitPattern: reserved)
        let head = Int((UInt(alignment) - start % UInt(alignment)) % UInt(alignment))
        let aligned = unsafe reserved + head
        let flags =
            file == nil ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED : MAP_SHARED | MAP_FIXED
        let mapped = unsafe mmap(aligned, byteCount, PROT_READ | PROT_WRITE, flags, file?.number ?? -1, 0)
        guard unsafe mapped == aligned else {
            result = Glibc.errno
            unsafe ckvm_munmap(reserved, reservedCount)
            throw KVMError(operation: "mmap", errno: result, subject: "\(byteCount) bytes of \(backing.rawValue) RAM")
        }
        if head > 0 { unsafe ckvm_munmap(reserved, head) }
        if alignment - head > 0 { unsafe ckvm_munmap(aligned + byteCount, alignment - head) }
        unsafe base = aligned
        self.byteCount = byteCount
        self.backing = backing
        self.file = file
        // A kernel without transparent huge pages says EINVAL; memory is as good without, only slower. A memfd gets them
        // where the host's shmem_enabled is "advise". A core dump of the VMM is not the place for guest RAM.
        if backing != .hugetlb { unsafe ckvm_madvise(aligned, byteCount, CKVM_MADV_HUGEPAGE) }
        unsafe ckvm_madvise(aligned, byteCount, CKVM_MADV_DONTDUMP)
    }

    deinit { unsafe ckvm_munmap(base, byteCount) }

    /// The memfd's number, nil for anonymous memory. It stays open as long as this mapping or an alias lives.
    public var fileDescriptor: CInt? { file?.number }

    /// A second mapping of the same memory; nil for anonymous memory, which has none.
    public func makeAlias() throws(KVMError) -> GuestMemory? {
        guard let file else { return nil }
        return try GuestMemory(byteCount: byteCount, backing: backing, file: file)
    }

    /// Makes a range resident and writable without changing its bytes, huge pages where the backing allows.
    public func populate(offset: Int, byteCount count: Int) throws(KVMError) {
        precondition(offset >= 0 && count >= 0 && offset + count <= byteCount)
        while true {
            let result = unsafe ckvm_madvise(base + offset, count, CKVM_MADV_POPULATE_WRITE)
            if result == -EINTR || result == -EAGAIN { continue }
            guard result < 0 else { return }
            throw KVMError(operation: "madvise(MADV_POPULATE_WRITE)", errno: -result, subject: "\(count) bytes of RAM")
        }
    }

    /// Makes everything resident, a bit at a time; returns early once `isCancelled` is true.
    public func populate(isCancelled: () -> Bool = { false }) throws(KVMError) {
        let step = 16 * Self.hugePageByteCount
        var offset = 0
        while offset < byteCount, !isCancelled() {
            try populate(offset: offset, byteCount: min(step, byteCount - offset))
            offset += step
        }
    }

    /// Allows or forbids huge pages from now on (anonymous and memfd memory).
    public func setHugePages(_ isAllowed: Bool) throws(KVMError) {
        let advice = isAllowed ? CKVM_MADV_HUGEPAGE : CKVM_MADV_NOHUGEPAGE
        let result = unsafe ckvm_madvise(base, byteCount, advice)
        guard result == 0 else { throw KVMError(operation: "madvise", errno: -result, subject: "guest RAM") }
    }

    /// Gives pages back to the host; they read as zeros (or fault to a userfaultfd) from then on.
    public func discard(offset: Int, byteCount count: Int) throws(KVMError) {
        precondition(offset >= 0 && count >= 0 && offset + count <= byteCount)
        let result: CInt
        let operation: String
        if let file {
            operation = "fallocate(FALLOC_FL_PUNCH_HOLE)"
            result = ckvm_fallocate(file.number, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, count)
        } else {
            operation = "madvise(MADV_DONTNEED)"
            result = unsafe ckvm_madvise(base + offset, count, CKVM_MADV_DONTNEED)
        }
        guard result == 0 else { throw KVMError(operation: operation, errno: -result, subject: "guest RAM") }
    }
}

/// A descriptor that several mappings share; closed with the last of them.
final class SharedDescriptor: Sendable {
    private let descriptor: FileDescriptor
    init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }
    var number: CInt { descriptor.rawValue }
}
