/// One request of a disk on its way: what remains to be done, and where it goes.

import CLibURing
import Glibc

/// The request types and answers of virtio 1.2, 5.2.6.
public enum BlockProtocol {
    public static let read: UInt32 = 0
    public static let write: UInt32 = 1
    public static let flush: UInt32 = 4
    public static let getID: UInt32 = 8
    public static let discard: UInt32 = 11
    public static let writeZeroes: UInt32 = 13

    public static let ok: UInt8 = 0
    public static let ioError: UInt8 = 1
    public static let unsupported: UInt8 = 2

    static let headerByteCount = 16
    static let idByteCount = 20
    static let rangeByteCount = 16
    /// The only flag of a write-zeroes range: the device may give the space back.
    static let unmap: UInt32 = 1
}

/// A slot for one request. Its vectors stay where they are until the kernel is done with them.
@safe
final class BlockRequest {
    enum Work {
        case read
        case write
        case flush
        /// The first of these fallocate modes that the file system has.
        case allocate(modes: [CInt])
    }

    let tag: UInt64
    private(set) var chain: DescriptorChain?
    private(set) var work = Work.flush
    private var byteCount = 0
    /// In the file; advances with what was transferred.
    private var offset: UInt64 = 0
    private var remaining = 0
    private var file: CInt = -1
    private var retries = 0
    /// Through the page cache, as far as it is at present.
    private var isBuffered = false
    /// A write whose data is there and has yet to become stable.
    private var isSynchronizing = false

    @unsafe private var vectors: UnsafeMutablePointer<iovec>
    private var capacity = 0
    private var firstVector = 0
    private var vectorCount = 0

    /// How often the kernel may ask to try again before it counts as an error.
    private static let retryLimit = 100

    init(tag: UInt64) {
        self.tag = tag
        unsafe vectors = .allocate(capacity: 1)
        capacity = 1
    }

    deinit { unsafe vectors.deallocate() }

    // MARK: Beginning

    func beginTransfer(
        _ chain: DescriptorChain, isWrite: Bool, segments: [GuestSegment], offset: UInt64, on disk: BlockFile
    ) {
        begin(chain, isWrite ? .write : .read)
        if segments.count > capacity {
            unsafe vectors.deallocate()
            unsafe vectors = .allocate(capacity: segments.count)
            capacity = segments.count
        }
        for (index, segment) in segments.enumerated() {
            unsafe vectors[index] = iovec(iov_base: segment.base, iov_len: segment.count)
        }
        (firstVector, vectorCount) = (0, segments.count)
        byteCount = segments.reduce(0) { $0 + $1.count }
        (remaining, self.offset) = (byteCount, offset)
        chooseFile(disk)
    }

    func beginFlush(_ chain: DescriptorChain, on disk: BlockFile) {
        begin(chain, .flush)
        file = disk.descriptor
    }

    func beginAllocation(_ chain: DescriptorChain, modes: [CInt], offset: UInt64, byteCount: Int, on disk: BlockFile) {
        begin(chain, .allocate(modes: modes))
        (self.offset, self.byteCount) = (offset, byteCount)
        file = disk.descriptor
    }

    private func begin(_ chain: DescriptorChain, _ work: Work) {
        (self.chain, self.work) = (chain, work)
        (retries, isBuffered, isSynchronizing) = (0, false, false)
    }

    /// Direct where everything that is left is aligned as the file system wants it.
    private func chooseFile(_ disk: BlockFile) {
        file = disk.descriptor
        isBuffered = true
        guard let direct = disk.directDescriptor, offset % disk.directOffsetAlignment == 0 else { return }
        for index in firstVector..<vectorCount {
            let vector = unsafe vectors[index]
            let address = unsafe UInt64(UInt(bitPattern: vector.iov_base))
            let length = unsafe UInt64(vector.iov_len)
            guard address % disk.directMemoryAlignment == 0, length % disk.directOffsetAlignment == 0 else { return }
        }
        (file, isBuffered) = (direct, false)
    }

    /// What the engine is to do next.
    var operation: BlockOperation {
        switch work {
        case .read:
            return unsafe .read(file, vectors + firstVector, count: vectorCount - firstVector, offset: offset)
        case .write:
            if isSynchronizing { return .synchronize(file) }
            return unsafe .write(file, vectors + firstVector, count: vectorCount - firstVector, offset: offset)
        case .flush: return .synchronize(file)
        case .allocate(let modes):
            return .allocate(file, mode: modes.first ?? 0, offset: offset, byteCount: UInt64(byteCount))
        }
    }

    // MARK: Going on

    /// After a result of the engine: the answer for the driver, or nil when there is more to do.
    func advance(_ result: Int, on disk: BlockFile, isWriteThrough: Bool) -> UInt8? {
        guard result >= 0 else { return retry(CInt(clamping: -result), disk) }
        switch work {
        case .flush, .allocate: return BlockProtocol.ok
        case .write where isSynchronizing: return BlockProtocol.ok
        case .read, .write:
            // The file ended before its size did: someone cut it off.
            guard result > 0, result <= remaining else { return BlockProtocol.ioError }
            skip(result)
            if remaining > 0 {
                chooseFile(disk)
                return nil
            }
            // Without the flush command, a write that was answered must be stable (5.2.6.2).
            guard isWriteThrough, case .write = work else { return BlockProtocol.ok }
            (isSynchronizing, file) = (true, disk.descriptor)
            return nil
        }
    }

    private func skip(_ count: Int) {
        var left = count
        remaining -= count
        offset += UInt64(count)
        while left > 0, firstVector < vectorCount {
            let length = unsafe vectors[firstVector].iov_len
            if left < length {
                let base = unsafe vectors[firstVector].iov_base
                unsafe vectors[firstVector] = iovec(iov_base: base.map { unsafe $0 + left }, iov_len: length - left)
                return
            }
            left -= length
            firstVector += 1
        }
    }

    private func retry(_ error: CInt, _ disk: BlockFile) -> UInt8? {
        switch (work, error) {
        case (_, EINTR), (_, EAGAIN):
            retries += 1
            return retries <= Self.retryLimit ? nil : BlockProtocol.ioError
        // The file system has other wishes than it told.
        case (.read, EINVAL) where !isBuffered, (.write, EINVAL) where !isBuffered && !isSynchronizing:
            (file, isBuffered) = (disk.descriptor, true)
            return nil
        case (.allocate(let modes), EOPNOTSUPP), (.allocate(let modes), ENOSYS):
            guard modes.count > 1 else { return BlockProtocol.unsupported }
            work = .allocate(modes: Array(modes.dropFirst()))
            return nil
        default: return BlockProtocol.ioError
        }
    }

    /// The slot is free again; what the request wrote to guest memory is the caller's to tell.
    func end() { chain = nil }
}
