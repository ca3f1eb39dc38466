/// An owned file descriptor, and the two shapes of an ioctl.

import CKVM
import Glibc

/// Owns a file descriptor and closes it when it goes away.
public struct FileDescriptor: ~Copyable, Sendable {
    /// The number, for calls. It stays open as long as the owner lives.
    public let rawValue: CInt

    /// Takes over an open descriptor. A negative number is allowed and closes nothing.
    public init(adopting rawValue: CInt) { self.rawValue = rawValue }

    /// Opens a path; O_CLOEXEC is added to `flags`.
    init(opening path: String, flags: CInt) throws(KVMError) {
        let result = unsafe ckvm_open(path, flags)
        guard result >= 0 else { throw KVMError(operation: "open", errno: -result, subject: path) }
        self.init(adopting: result)
    }

    deinit { if rawValue >= 0 { close(rawValue) } }

    /// An ioctl with an integer argument.
    @discardableResult
    func control(
        _ request: UInt, _ operation: StaticString, value: UInt = 0, _ subject: @autoclosure () -> String
    ) throws(KVMError) -> Int {
        let result = ckvm_ioctl(rawValue, request, value)
        guard result >= 0 else { throw KVMError("\(operation)", result, subject()) }
        return result
    }

    /// An ioctl with a pointer to a structure of fixed size.
    @discardableResult
    func control<Argument>(
        _ request: UInt, _ operation: StaticString, with argument: inout Argument, _ subject: @autoclosure () -> String
    ) throws(KVMError) -> Int {
        let result = unsafe withUnsafeMutablePointer(to: &argument) { pointer in
            unsafe ckvm_ioctl_pointer(rawValue, request, pointer)
        }
        guard result >= 0 else { throw KVMError("\(operation)", result, subject()) }
        return result
    }

    /// An ioctl with a pointer to a buffer.
    @discardableResult
    func control(
        _ request: UInt, _ operation: StaticString, at pointer: UnsafeMutableRawPointer,
        _ subject: @autoclosure () -> String
    ) throws(KVMError) -> Int {
        let result = unsafe ckvm_ioctl_pointer(rawValue, request, pointer)
        guard result >= 0 else { throw KVMError("\(operation)", result, subject()) }
        return result
    }
}

extension KVMError {
    /// From a shim's result below zero.
    init(_ operation: String, _ result: Int, _ subject: String) {
        self.init(operation: operation, errno: Int32(truncatingIfNeeded: -result), subject: subject)
    }
}
