/// Guest memory for tests: a plain buffer that remembers which pages devices said they wrote, and finds bytes that
/// changed elsewhere.

import Glibc
import Synchronization
import Virtio

/// RAM in two regions with a hole between, as a machine has it.
final class GuestBuffer: GuestMemoryAccess, @unchecked Sendable {
    static let pageSize = 4096
    struct Region {
        let start: UInt64
        let count: Int
        let base: UnsafeMutableRawPointer
        /// The memory as the guest itself last wrote it.
        let shadow: UnsafeMutableRawPointer
    }

    let regions: [Region]
    private let marked = Mutex<Set<UInt64>>([])
    private let marks = Mutex<[UInt64]>([])
    private let discarded = Mutex<[Range<UInt64>]>([])

    init(_ ranges: [(start: UInt64, count: Int)] = [(0, 8 << 20), (0x1_0000_0000, 1 << 20)]) {
        regions = ranges.map { start, count in
            let memory = { () -> UnsafeMutableRawPointer in
                // Guard pages around it: a device that leaves the region crashes the test.
                let whole = mmap(nil, count + 2 * Self.pageSize, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                guard let whole, whole != MAP_FAILED else { fatalError("no memory for the test") }
                mprotect(whole + Self.pageSize, count, PROT_READ | PROT_WRITE)
                return whole + Self.pageSize
            }
            return Region(start: start, count: count, base: memory(), shadow: memory())
        }
    }

    deinit {
        for region in regions {
            munmap(region.base - Self.pageSize, region.count + 2 * Self.pageSize)
            munmap(region.shadow - Self.pageSize, region.count + 2 * Self.pageSize)
        }
    }

    private func locate(_ address: UInt64, _ count: Int) throws(GuestMemoryError) -> (Region, Int) {
        for region in regions where address >= region.start {
            let offset = address - region.start
            if count >= 0, offset <= UInt64(region.count), UInt64(count) <= UInt64(region.count) - offset {
                return (region, Int(offset))
            }
        }
        throw GuestMemoryError(address: address, byteCount: count)
    }

    // MARK: The device's side

    func copy(from address: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(GuestMemoryError) {
        let (region, offset) = try locate(address, buffer.count)
        buffer.copyMemory(from: UnsafeRawBufferPointer(start: region.base + offset, count: buffer.count))
    }

    func copy(_ bytes: UnsafeRawBufferPointer, to address: UInt64) throws(GuestMemoryError) {
        let (region, offset) = try locate(address, bytes.count)
        UnsafeMutableRawBufferPointer(start: region.base + offset, count: bytes.count).copyMemory(from: bytes)
        markWritten(address, count: bytes.count)
    }

    func mapping(of address: UInt64, count: Int) throws(GuestMemoryError) -> UnsafeMutableRawBufferPointer {
        let (region, offset) = try locate(address, count)
        return UnsafeMutableRawBufferPointer(start: region.base + offset, count: count)
    }

    func markWritten(_ address: UInt64, count: Int) {
        guard count > 0 else { return }
        marks.withLock { $0.append(address) }
        let pages = address / 4096...(address + UInt64(count) - 1) / 4096
        marked.withLock { $0.formUnion(pages) }
    }

    func discard(_ address: UInt64, count: Int) throws(GuestMemoryError) {
        let (region, offset) = try locate(address, count)
        memset(region.base + offset, 0, count)
        markWritten(address, count: count)
        discarded.withLock { $0.append(address..<address + UInt64(count)) }
    }

    // MARK: The guest's side: it needs no marks, KVM sees its writes

    /// A test that leaves its own memory is wrong.
    private func own(_ address: UInt64, _ count: Int) -> (Region, Int) {
        guard let place = try? locate(address, count) else { fatalError("the test accesses \(address)") }
        return place
    }

    func write(_ bytes: [UInt8], at address: UInt64) {
        let (region, offset) = own(address, bytes.count)
        bytes.withUnsafeBytes { raw in
            UnsafeMutableRawBufferPointer(start: region.base + offset, count: raw.count).copyMemory(from: raw)
            UnsafeMutableRawBufferPointer(start: region.shadow + offset, count: raw.count).copyMemory(from: raw)
        }
    }

    func write<Number: FixedWidthInteger>(_ number: Number, at address: UInt64) {
        write(withUnsafeBytes(of: number.littleEndian) { Array($0) }, at: address)
    }

    func read(_ address: UInt64, _ count: Int) -> [UInt8] {
        let (region, offset) = own(address, count)
        return Array(UnsafeRawBufferPointer(start: region.base + offset, count: count))
    }

    func read<Number: FixedWidthInteger>(_ type: Number.Type, at address: UInt64) -> Number {
        read(address, MemoryLayout<Number>.size).reversed().reduce(0) { $0 << 8 | Number(truncatingIfNeeded: $1) }
    }

    // MARK: The check

    /// Pages in which a byte differs from what the guest wrote, and that no device marked. `nil` where all is well.
    func unmarkedChange() -> UInt64? {
        let marks = marked.withLock { $0 }
        for region in regions {
            for offset in stride(from: 0, to: region.count, by: Self.pageSize)
            where memcmp(region.base + offset, region.shadow + offset, Self.pageSize) != 0 {
                let page = (region.start + UInt64(offset)) / 4096
                if !marks.contains(page) { return page * 4096 }
            }
        }
        return nil
    }

    /// Where devices said that they wrote, in the order of saying.
    var marksInOrder: [UInt64] { marks.withLock { $0 } }
    var discardedRanges: [Range<UInt64>] { discarded.withLock { $0 } }
}
