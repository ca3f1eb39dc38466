/// A failed call to the kernel.

import CKVM

/// A call to the kernel that failed: which call, on what, and the kernel's reason.
public struct KVMError: Error, Equatable, Sendable {
    /// The ioctl's or system call's name, as in the kernel's documents ("KVM_SET_SREGS2", "mmap").
    public let operation: String
    /// The kernel's errno, positive.
    public let errno: Int32
    /// What the call was about ("vcpu 0", "slot 1", "/dev/kvm").
    public let subject: String

    public init(operation: String, errno: Int32, subject: String) {
        self.operation = operation
        self.errno = errno
        self.subject = subject
    }
}

extension KVMError: CustomStringConvertible {
    /// One line for people: "KVM_SET_SREGS2 on vcpu 0 failed: Invalid argument (EINVAL)".
    public var description: String { "\(operation) on \(subject) failed: \(ErrnoText.describe(errno))" }
}

/// The C library's words for an errno.
public enum ErrnoText {
    /// "Invalid argument (EINVAL)".
    public static func describe(_ number: Int32) -> String {
        guard let name = unsafe ckvm_errno_name(number), let text = unsafe ckvm_errno_description(number) else {
            return "error \(number)"
        }
        return unsafe "\(String(cString: text)) (\(String(cString: name)))"
    }
}
