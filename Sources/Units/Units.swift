/// Quantities of guest memory, typed so that a unit never has to be guessed.

/// The size of a guest page in bytes. x86-64 dirty logs, the stream and userfaultfd all work in this unit.
public let pageByteCount = 4096

/// Pages in a stripe of 2 MiB: the unit that belongs to one lane (DESIGN section 4).
public let pagesPerStripe = 512

/// A guest physical address in bytes.
public struct GuestAddress: RawRepresentable, Hashable, Comparable, Sendable, Codable {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public init(_ rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
}

extension GuestAddress: CustomStringConvertible {
    public var description: String { "0x" + String(rawValue, radix: 16) }
}

/// The number of a page within one memory region (0 is the region's first page); not a gfn.
public struct PageIndex: RawRepresentable, Hashable, Comparable, Sendable, Codable {
    public var rawValue: Int
    @inlinable public init(rawValue: Int) { self.rawValue = rawValue }
    @inlinable public init(_ rawValue: Int) { self.rawValue = rawValue }
    @inlinable public static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }

    /// The page's first byte, counted from the start of its region.
    @inlinable public var byteOffset: Int { rawValue * pageByteCount }

    /// The stripe of 2 MiB that the page lies in.
    @inlinable public var stripe: Int { rawValue / pagesPerStripe }
}

/// A run of pages of one region: `count` pages from `start`.
public struct PageRun: Hashable, Sendable, Codable {
    public var start: PageIndex
    public var count: Int

    @inlinable public init(start: PageIndex, count: Int) {
        self.start = start
        self.count = count
    }

    /// The first page behind the run.
    @inlinable public var end: PageIndex { PageIndex(start.rawValue + count) }
    @inlinable public var byteCount: Int { count * pageByteCount }
}

/// A number of bytes. `description` is for people ("256 MiB"); `rawValue` is for programs.
public struct ByteCount: RawRepresentable, Hashable, Comparable, Sendable, Codable {
    public var rawValue: UInt64
    @inlinable public init(rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public init(_ rawValue: UInt64) { self.rawValue = rawValue }
    @inlinable public static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }
}
