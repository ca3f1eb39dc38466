/// The copy loop must move what it claims to move, or it is no limit.

import CHarness
import Glibc
import HarnessSupport
import Testing

/// What a thread needs to send.
private struct Sending: @unchecked Sendable {
    var limit: harness_limit
    var memory: UnsafeMutableRawPointer
}

@Suite struct LimitTests {
    @Test(arguments: [1, 2, 3])
    func pagesArriveAsTheyWere(lanes: Int) throws {
        let bytes: UInt64 = 8 << 20
        let source = try #require(harness_limit_memory(bytes, 1, 1))
        let destination = try #require(harness_limit_memory(bytes, 0, 1))
        defer {
            munmap(source, Int(bytes))
            munmap(destination, Int(bytes))
        }
        var outgoing = harness_limit()
        outgoing.memory_bytes = bytes
        // A pass and a half.
        outgoing.total_bytes = bytes * 3 / 2
        outgoing.lanes = Int32(lanes)
        var incoming = outgoing
        incoming.verify = 1
        var pairs: [[Int32]] = []
        for _ in 0..<lanes {
            var pair: [Int32] = [0, 0]
            #expect(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair) == 0)
            pairs.append(pair)
        }
        defer { for descriptor in pairs.joined() { close(descriptor) } }
        func set(_ limit: inout harness_limit, _ side: Int) {
            withUnsafeMutableBytes(of: &limit.sockets) { raw in
                raw.copyBytes(from: pairs.map { $0[side] }.withUnsafeBytes { Array($0) })
            }
        }
        set(&outgoing, 0)
        set(&incoming, 1)

        let start = Unmanaged.passRetained(Box(Sending(limit: outgoing, memory: source)))
        var thread = pthread_t()
        pthread_create(&thread, nil, sendInThread, start.toOpaque())
        var result = harness_limit_result()
        #expect(harness_limit_receive(&incoming, destination, &result) == 0)
        pthread_join(thread, nil)
        #expect(result.wrong_pages == 0)
        #expect(result.finished >= result.once && result.once >= result.started)
        #expect(memcmp(source, destination, Int(bytes)) == 0)
    }

    @Test func sizesThatMakeNoSenseAreRefused() throws {
        var limit = harness_limit()
        limit.lanes = 17
        limit.memory_bytes = 2 << 20
        var result = harness_limit_result()
        let memory = try #require(harness_limit_memory(2 << 20, 0, 0))
        defer { munmap(memory, 2 << 20) }
        #expect(harness_limit_send(&limit, memory, &result) == -EINVAL)
    }
}

private final class Box<Value> {
    let value: Value
    init(_ value: Value) { self.value = value }
}

private func sendInThread(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let context else { return nil }
    let sending = Unmanaged<Box<Sending>>.fromOpaque(context).takeRetainedValue().value
    var limit = sending.limit
    var result = harness_limit_result()
    _ = harness_limit_send(&limit, sending.memory, &result)
    return nil
}
