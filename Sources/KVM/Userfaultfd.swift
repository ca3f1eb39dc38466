/// Page faults handled by this process.

import CKVM
import Glibc

/// A userfaultfd. Every call may come from any thread.
public final class Userfaultfd: Sendable {
    private let descriptor: FileDescriptor
    /// The features that the kernel offers (`UFFD_FEATURE_*`).
    public let features: UInt64

    /// What became of a call that fills or maps a range; the kernel may stop anywhere in it.
    public struct Progress: Equatable, Sendable {
        /// Bytes done from the start of the range.
        public var byteCount: Int
        /// Why it stopped, 0 when it is done. EEXIST: the next page is there already, so wake its waiters and go on
        /// behind it. EAGAIN: the address space is changing; try again.
        public var stop: Int32

        public init(byteCount: Int, stop: Int32) {
            self.byteCount = byteCount
            self.stop = stop
        }
    }

    /// Opens a userfaultfd through `/dev/userfaultfd`, or the system call where that is absent, and asks for
    /// features. Reads of events do not block.
    public init(features requested: UInt64 = 0) throws(KVMError) {
        let flags = O_CLOEXEC | O_NONBLOCK
        var number: CInt = -ENOENT
        if let device = try? FileDescriptor(opening: "/dev/userfaultfd", flags: O_RDWR) {
            number = CInt(
                truncatingIfNeeded: ckvm_ioctl(device.rawValue, CKVM_USERFAULTFD_IOC_NEW, UInt(bitPattern: Int(flags))))
        }
        if number < 0 { number = ckvm_userfaultfd(flags) }
        guard number >= 0 else { throw KVMError(operation: "userfaultfd", errno: -number, subject: "this process") }
        let descriptor = FileDescriptor(adopting: number)
        var api = uffdio_api(api: 0xAA, features: requested, ioctls: 0)
        try descriptor.control(CKVM_UFFDIO_API, "UFFDIO_API", with: &api, "features 0x" + String(requested, radix: 16))
        self.descriptor = descriptor
        features = api.features
    }

    package init(adopting number: CInt) {
        descriptor = FileDescriptor(adopting: number)
        features = 0
    }

    /// For poll(2). It stays open as long as the owner lives.
    public var fileDescriptor: CInt { descriptor.rawValue }

    /// Watches a range (`UFFDIO_REGISTER_MODE_*`); returns the ioctls that the range takes, one bit each.
    @discardableResult
    public func register(start: UInt64, byteCount: Int, mode: UInt64) throws(KVMError) -> UInt64 {
        var argument = uffdio_register()
        argument.range = uffdio_range(start: start, len: UInt64(byteCount))
        argument.mode = mode
        try descriptor.control(CKVM_UFFDIO_REGISTER, "UFFDIO_REGISTER", with: &argument, subject(start, byteCount))
        return argument.ioctls
    }

    public func unregister(start: UInt64, byteCount: Int) throws(KVMError) {
        var range = uffdio_range(start: start, len: UInt64(byteCount))
        try descriptor.control(CKVM_UFFDIO_UNREGISTER, "UFFDIO_UNREGISTER", with: &range, subject(start, byteCount))
    }

    /// Wakes the threads that wait in a range.
    public func wake(start: UInt64, byteCount: Int) throws(KVMError) {
        var range = uffdio_range(start: start, len: UInt64(byteCount))
        try descriptor.control(CKVM_UFFDIO_WAKE, "UFFDIO_WAKE", with: &range, subject(start, byteCount))
    }

    /// Protects a range from writes, or lets them through again and wakes the writers.
    public func writeProtect(start: UInt64, byteCount: Int, isProtected: Bool) throws(KVMError) {
        var argument = uffdio_writeprotect()
        argument.range = uffdio_range(start: start, len: UInt64(byteCount))
        argument.mode = isProtected ? 1 : 0
        try descriptor.control(
            CKVM_UFFDIO_WRITEPROTECT, "UFFDIO_WRITEPROTECT", with: &argument, subject(start, byteCount))
    }

    /// Fills missing pages with a copy.
    public func copy(
        to start: UInt64, from source: UnsafeRawPointer, byteCount: Int, mode: UInt64 = 0
    ) throws(KVMError) -> Progress {
        var argument = uffdio_copy()
        argument.dst = start
        argument.src = UInt64(UInt(bitPattern: source))
        argument.len = UInt64(byteCount)
        argument.mode = mode
        let result = call(CKVM_UFFDIO_COPY, &argument)
        return try progress("UFFDIO_COPY", result, argument.copy, start, byteCount)
    }

    /// Fills missing pages with zeros.
    public func zeroPages(start: UInt64, byteCount: Int, mode: UInt64 = 0) throws(KVMError) -> Progress {
        var argument = uffdio_zeropage()
        argument.range = uffdio_range(start: start, len: UInt64(byteCount))
        argument.mode = mode
        let result = call(CKVM_UFFDIO_ZEROPAGE, &argument)
        return try progress("UFFDIO_ZEROPAGE", result, argument.zeropage, start, byteCount)
    }

    /// Maps pages that are in the file already (minor faults).
    public func mapExisting(start: UInt64, byteCount: Int, mode: UInt64 = 0) throws(KVMError) -> Progress {
        var argument = uffdio_continue()
        argument.range = uffdio_range(start: start, len: UInt64(byteCount))
        argument.mode = mode
        let result = call(CKVM_UFFDIO_CONTINUE, &argument)
        return try progress("UFFDIO_CONTINUE", result, argument.mapped, start, byteCount)
    }

    /// Moves pages from elsewhere in this process (anonymous memory only; Linux 6.8).
    public func move(to start: UInt64, from source: UInt64, byteCount: Int, mode: UInt64 = 0) throws(KVMError)
        -> Progress
    {
        var argument = uffdio_move()
        argument.dst = start
        argument.src = source
        argument.len = UInt64(byteCount)
        argument.mode = mode
        let result = call(CKVM_UFFDIO_MOVE, &argument)
        return try progress("UFFDIO_MOVE", result, argument.move, start, byteCount)
    }

    /// Reads waiting events without blocking; 0 when there are none.
    public func readEvents(into buffer: UnsafeMutableBufferPointer<uffd_msg>) throws(KVMError) -> Int {
        let size = MemoryLayout<uffd_msg>.stride
        while true {
            let result = unsafe ckvm_read(descriptor.rawValue, buffer.baseAddress, buffer.count * size)
            if result == -Int(EAGAIN) { return 0 }
            if result == -Int(EINTR) { continue }
            guard result >= 0 else { throw KVMError("read", result, "userfaultfd") }
            return result / size
        }
    }

    private func call<Argument: BitwiseCopyable>(_ request: UInt, _ argument: inout Argument) -> Int {
        unsafe withUnsafeMutablePointer(to: &argument) {
            unsafe ckvm_ioctl_pointer(descriptor.rawValue, request, $0)
        }
    }

    /// The kernel tells how far it got in the structure (bytes, or -errno), and the last error in the result.
    private func progress(
        _ operation: String, _ result: Int, _ told: Int64, _ start: UInt64, _ byteCount: Int
    ) throws(KVMError) -> Progress {
        if result >= 0 { return Progress(byteCount: byteCount, stop: 0) }
        let error = Int32(truncatingIfNeeded: -result)
        guard error == EEXIST || error == EAGAIN else { throw KVMError(operation, result, subject(start, byteCount)) }
        // A short count comes with EAGAIN whatever stopped it; the next call will tell.
        return Progress(byteCount: told > 0 ? Int(told) : 0, stop: error)
    }

    private func subject(_ start: UInt64, _ byteCount: Int) -> String {
        "0x\(String(start, radix: 16)), \(byteCount) bytes"
    }
}
