/// Guest RAM as virtio devices see it. What they write is told to the dirty log, as every write from this process is.

import KVM
import Units
import Virtio

extension GuestRAM: GuestMemoryAccess {
    func copy(from address: UInt64, into buffer: UnsafeMutableRawBufferPointer) throws(GuestMemoryError) {
        guard let target = buffer.baseAddress else { return }
        let source = try unsafe mapping(of: address, count: buffer.count)
        guard let base = source.baseAddress else { return }
        unsafe target.copyMemory(from: base, byteCount: buffer.count)
    }

    func copy(_ bytes: UnsafeRawBufferPointer, to address: UInt64) throws(GuestMemoryError) {
        guard let source = bytes.baseAddress else { return }
        let target = try unsafe mapping(of: address, count: bytes.count)
        guard let base = target.baseAddress else { return }
        unsafe base.copyMemory(from: source, byteCount: bytes.count)
        markWritten(address, count: bytes.count)
    }

    func mapping(of address: UInt64, count: Int) throws(GuestMemoryError) -> UnsafeMutableRawBufferPointer {
        let (index, offset) = try place(address, count)
        return unsafe UnsafeMutableRawBufferPointer(start: regions[index].memory.base + offset, count: count)
    }

    func markWritten(_ address: UInt64, count: Int) {
        guard count > 0, let (index, offset) = try? locate(GuestAddress(address), byteCount: count) else { return }
        markWritten(region: index, offset: offset, byteCount: count)
    }

    func discard(_ address: UInt64, count: Int) throws(GuestMemoryError) {
        let (index, offset) = try place(address, count)
        let page = pageByteCount
        guard offset % page == 0, count % page == 0 else {
            throw GuestMemoryError(address: address, byteCount: count)
        }
        guard count > 0 else { return }
        // Part of a huge page cannot be given back, nor can a page while others are missing; it can be what was promised
        // all the same.
        let isGiven = !isPaged && (try? regions[index].memory.discard(offset: offset, byteCount: count)) != nil
        if !isGiven {
            let base = unsafe regions[index].memory.base + offset
            unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: count)
        }
        markWritten(region: index, offset: offset, byteCount: count)
    }

    private func place(_ address: UInt64, _ count: Int) throws(GuestMemoryError) -> (region: Int, offset: Int) {
        guard count >= 0, let place = try? locate(GuestAddress(address), byteCount: count) else {
            throw GuestMemoryError(address: address, byteCount: count)
        }
        return place
    }
}
