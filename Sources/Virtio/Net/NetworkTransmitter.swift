/// Frames from the guest to the host.

import CLibURing
import Glibc

/// The transmit queue's worker. Under the device's work lock.
final class NetworkTransmitter {
    private let queue: Virtqueue
    private let port: NetworkPort
    /// The host takes no more for now; the frame stays in the queue.
    private(set) var isBlocked = false

    private static let roundLimit = 128

    init(queue: Virtqueue, port: NetworkPort) {
        self.queue = queue
        self.port = port
    }

    /// Sends what the guest queued. True if there is more to do at once.
    func process() throws(VirtioFault) -> Bool {
        defer { queue.publish() }
        isBlocked = false
        for _ in 0..<Self.roundLimit {
            guard let chain = try queue.next() else { return try queue.rearm() }
            // What is too short for its header or longer than any frame is dropped.
            if chain.readableByteCount > NetworkPort.headerByteCount,
                chain.readableByteCount <= NetworkDevice.frameLimit, !send(chain)
            {
                queue.putBack()
                isBlocked = true
                return false
            }
            queue.complete(chain.head, written: 0)
        }
        return true
    }

    /// Straight from guest memory: the kernel reads and checks the header once. False if it is to be tried again.
    private func send(_ chain: DescriptorChain) -> Bool {
        let vectors = unsafe chain.readable.map { unsafe iovec(iov_base: $0.base, iov_len: $0.count) }
        while true {
            let result = unsafe vectors.withUnsafeBufferPointer { buffer -> Int in
                guard let base = buffer.baseAddress else { return 0 }
                return unsafe cur_writev(port.descriptor, base, CInt(clamping: buffer.count))
            }
            if result == -Int(EINTR) { continue }
            // Any other failure loses the frame, as a cable that is pulled out does.
            return result != -Int(EAGAIN)
        }
    }
}
