/// A disk's I/O under a test's control: what it does is noted, may fail or be cut short, and ends when the test says.

import CLibURing
import Glibc
import Synchronization
import Virtio

final class ScriptedEngine: BlockEngine, @unchecked Sendable {
    struct Call: Equatable {
        var name: String
        var file: CInt
        var offset: UInt64 = 0
        var mode: CInt = 0
    }

    private struct State {
        var calls: [Call] = []
        var waiting: [(tag: UInt64, result: Int)] = []
        var done: [(tag: UInt64, result: Int)] = []
        var isHolding = false
    }

    private let state = Mutex(State())
    private let event = cur_eventfd()
    /// Results for the next calls, in order; nil does the call. Behind the end, all calls are done.
    private let script: Mutex<[Int?]>
    /// Reads and writes move this much at most.
    private let transferLimit: Int

    init(script: [Int?] = [], transferLimit: Int = .max) {
        self.script = Mutex(script)
        self.transferLimit = transferLimit
    }

    deinit { close(event) }

    var calls: [Call] { state.withLock { $0.calls } }
    var names: [String] { calls.map(\.name) }

    /// From now on, calls are done and their ends kept back.
    func hold() { state.withLock { $0.isHolding = true } }

    /// Lets go of what was kept back, and keeps nothing back any more.
    func release() {
        state.withLock { state in
            state.isHolding = false
            state.done += state.waiting
            state.waiting = []
        }
        cur_eventfd_signal(event)
    }

    // MARK: BlockEngine

    var eventDescriptor: CInt? { event }
    var hasUnsubmitted: Bool { false }
    func submit() {}

    func start(_ operation: BlockOperation, tag: UInt64) {
        let scripted = script.withLock { $0.isEmpty ? nil : $0.removeFirst() }
        let (call, result): (Call, Int)
        switch operation {
        case .read(let file, let vectors, let count, let offset):
            call = Call(name: "read", file: file, offset: offset)
            result = scripted ?? limited(vectors, count) { cur_preadv(file, $0, $1, offset) }
        case .write(let file, let vectors, let count, let offset):
            call = Call(name: "write", file: file, offset: offset)
            result = scripted ?? limited(vectors, count) { cur_pwritev(file, $0, $1, offset) }
        case .synchronize(let file):
            call = Call(name: "synchronize", file: file)
            result = scripted ?? Int(cur_fdatasync(file))
        case .allocate(let file, let mode, let offset, let byteCount):
            call = Call(name: "allocate", file: file, offset: offset, mode: mode)
            result = scripted ?? Int(cur_fallocate(file, mode, offset, byteCount))
        }
        state.withLock { state in
            state.calls.append(call)
            if state.isHolding { state.waiting.append((tag, result)) } else { state.done.append((tag, result)) }
        }
        cur_eventfd_signal(event)
    }

    private func limited(
        _ vectors: UnsafePointer<iovec>, _ count: Int, _ call: (UnsafePointer<iovec>, CInt) -> Int
    ) -> Int {
        var left = transferLimit
        var cut: [iovec] = []
        for index in 0..<count where left > 0 {
            let length = min(vectors[index].iov_len, left)
            cut.append(iovec(iov_base: vectors[index].iov_base, iov_len: length))
            left -= length
        }
        return call(cut, CInt(cut.count))
    }

    func take(wait: Bool) -> [(tag: UInt64, result: Int)] {
        while true {
            cur_eventfd_clear(event)
            let done = state.withLock { state in
                defer { state.done = [] }
                return state.done
            }
            guard wait, done.isEmpty else { return done }
            var entry = pollfd(fd: event, events: CShort(POLLIN), revents: 0)
            poll(&entry, 1, 100)
        }
    }
}
