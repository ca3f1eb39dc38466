/// Frames from the host to the guest.

import CLibURing
import Glibc

/// The receive queue's worker. Under the device's work lock.
@safe
final class NetworkReceiver {
    private let queue: Virtqueue
    private let port: NetworkPort
    private let merges: Bool
    private let trustsChecksum: Bool
    @unsafe private let frame: UnsafeMutableRawBufferPointer
    /// A frame that was read and that the guest has too few buffers for. A stopped device drops it, as a network may.
    private var heldByteCount = 0
    /// The guest queued no buffers: frames stay with the host until it does.
    private var isStarved = false
    /// The host's end went away: no frame will come any more.
    private(set) var isGone = false

    private static let roundLimit = 64

    init(queue: Virtqueue, port: NetworkPort, merges: Bool, trustsChecksum: Bool) {
        self.queue = queue
        self.port = port
        self.merges = merges
        self.trustsChecksum = trustsChecksum
        unsafe frame = .allocate(byteCount: NetworkDevice.frameLimit, alignment: 16)
    }

    deinit { unsafe frame.deallocate() }

    var wantsFrames: Bool { !isStarved && !isGone }

    /// Passes on what is there. True if there is more to do at once.
    func process() throws(VirtioFault) -> Bool {
        defer { queue.publish() }
        isStarved = false
        for _ in 0..<Self.roundLimit {
            guard try hasBuffers() else { return false }
            if heldByteCount == 0 {
                guard let count = receive() else { return false }
                heldByteCount = count
            }
            guard try deliver() else {
                // Too few buffers for this one: more are waited for, as if there were none.
                isStarved = true
                return try queue.rearm()
            }
            heldByteCount = 0
        }
        return true
    }

    private func hasBuffers() throws(VirtioFault) -> Bool {
        if try queue.hasWaiting() { return true }
        if try queue.rearm() { return true }
        isStarved = true
        return false
    }

    /// The next frame's length with its header, or nil when there is none.
    private func receive() -> Int? {
        while true {
            var vector = unsafe iovec(iov_base: frame.baseAddress, iov_len: frame.count)
            let count = unsafe cur_readv(port.descriptor, &vector, 1)
            if count >= NetworkPort.headerByteCount { return count }
            // What is shorter than its header is no frame; 0 is the end of a socket.
            if count > 0 || count == -Int(EINTR) { continue }
            isGone = count != -Int(EAGAIN)
            return nil
        }
    }

    /// Puts the frame into buffers; false, with all of them put back, when they do not suffice.
    private func deliver() throws(VirtioFault) -> Bool {
        var chains: [DescriptorChain] = []
        var room = 0
        while room < heldByteCount {
            guard chains.isEmpty || merges else {
                // One buffer has to do without merging: the frame is too long for this guest, and lost (5.1.6.4).
                queue.putBack(chains.count)
                return true
            }
            guard let chain = try queue.next() else {
                queue.putBack(chains.count)
                return false
            }
            chains.append(chain)
            room += chain.writableByteCount
            guard chain.writableByteCount >= NetworkPort.headerByteCount else {
                throw VirtioFault("a receive buffer of \(chain.writableByteCount) bytes")
            }
        }
        var bytes = unsafe Array(frame[..<heldByteCount])
        if !trustsChecksum { bytes[0] = 0 }
        bytes.setLittleEndian(UInt16(clamping: chains.count), at: 10)
        var done = 0
        for chain in chains {
            let written = try chain.write(Array(bytes[done...].prefix(chain.writableByteCount)))
            queue.complete(chain.head, written: written)
            done += written
        }
        return true
    }
}
