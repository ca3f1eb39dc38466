/// Structures that end in an array of unknown length (`kvm_msrs`, `kvm_cpuid2`, ...): Swift sees only their header.

/// A C header followed by `capacity` elements, all zero at first.
@safe
public struct FlexibleBuffer<Header, Element: BitwiseCopyable>: ~Copyable {
    private let storage: UnsafeMutableRawPointer
    public let capacity: Int

    /// Where C puts the first element: behind the header, aligned.
    private static var elementOffset: Int {
        let alignment = MemoryLayout<Element>.alignment
        return (MemoryLayout<Header>.size + alignment - 1) / alignment * alignment
    }

    public init(capacity: Int) {
        precondition(capacity >= 0)
        let byteCount = Self.elementOffset + capacity * MemoryLayout<Element>.stride
        unsafe storage = .allocate(
            byteCount: max(byteCount, MemoryLayout<Header>.stride),
            alignment: max(MemoryLayout<Header>.alignment, MemoryLayout<Element>.alignment))
        unsafe storage.initializeMemory(
            as: UInt8.self, repeating: 0, count: max(byteCount, MemoryLayout<Header>.stride))
        self.capacity = capacity
    }

    deinit { unsafe storage.deallocate() }

    public var header: Header {
        // Swift does not call a structure with a flexible array bitwise copyable; as a header it is.
        get { unsafe storage.assumingMemoryBound(to: Header.self).pointee }
        set { unsafe storage.assumingMemoryBound(to: Header.self).pointee = newValue }
    }

    public subscript(index: Int) -> Element {
        get {
            precondition(index >= 0 && index < capacity)
            return unsafe storage.load(
                fromByteOffset: Self.elementOffset + index * MemoryLayout<Element>.stride, as: Element.self)
        }
        set {
            precondition(index >= 0 && index < capacity)
            unsafe storage.storeBytes(
                of: newValue, toByteOffset: Self.elementOffset + index * MemoryLayout<Element>.stride,
                as: Element.self)
        }
    }

    /// The first `count` elements, `count` being what the kernel says it filled in.
    public func elements(_ count: Int) -> [Element] {
        (0..<min(max(count, 0), capacity)).map { self[$0] }
    }

    /// The whole structure, for the kernel. Valid as long as the buffer lives.
    @unsafe public var pointer: UnsafeMutableRawPointer { unsafe storage }
}
