/// The thread that does a device's work, so that no vCPU waits for it.

import CLibURing
import Glibc
import Synchronization

/// An eventfd: set from any thread, waited for by one.
final class EventDescriptor: Sendable {
    let rawValue: CInt

    init() throws(VirtioError) {
        rawValue = cur_eventfd()
        guard rawValue >= 0 else { throw VirtioError(.hostRefused, "cannot make an eventfd", errno: -rawValue) }
    }

    deinit { close(rawValue) }

    func signal() { cur_eventfd_signal(rawValue) }
    func clear() { cur_eventfd_clear(rawValue) }
}

/// Calls `step` whenever the kick, or what the last step wants to wait for, is due. Ends with its owner.
@safe
final class DeviceThread: Sendable {
    private let kick: EventDescriptor
    private let isEnding: Flag
    private let handle: pthread_t

    fileprivate final class Flag: Sendable {
        let value = Atomic(false)
    }

    init(name: String, kick: EventDescriptor, step: @escaping @Sendable () -> BackendWait) throws(VirtioError) {
        let flag = Flag()
        let start = unsafe Unmanaged.passRetained(Start(name: name, kick: kick, isEnding: flag, step: step))
        var handle = pthread_t()
        let status = unsafe pthread_create(&handle, nil, threadMain, start.toOpaque())
        guard status == 0 else {
            unsafe start.release()
            throw VirtioError(.hostRefused, "cannot start the thread \(name)", errno: status)
        }
        self.handle = handle
        self.kick = kick
        isEnding = flag
    }

    deinit {
        isEnding.value.store(true, ordering: .releasing)
        kick.signal()
        // The last owner may be the thread itself: it cannot wait for its own end.
        if pthread_equal(handle, pthread_self()) != 0 {
            pthread_detach(handle)
        } else {
            pthread_join(handle, nil)
        }
    }

    fileprivate final class Start {
        let name: String
        let kick: EventDescriptor
        let isEnding: Flag
        let step: @Sendable () -> BackendWait

        init(name: String, kick: EventDescriptor, isEnding: Flag, step: @escaping @Sendable () -> BackendWait) {
            self.name = name
            self.kick = kick
            self.isEnding = isEnding
            self.step = step
        }

        func run() {
            var wait = BackendWait()
            while !isEnding.value.load(ordering: .acquiring) {
                var entries = [pollfd(fd: kick.rawValue, events: CShort(POLLIN), revents: 0)]
                for descriptor in wait.descriptors {
                    entries.append(pollfd(fd: descriptor.rawValue, events: descriptor.events, revents: 0))
                }
                // EINTR and the like only mean that the step looks once more.
                _ = unsafe entries.withUnsafeMutableBufferPointer { buffer in
                    unsafe poll(buffer.baseAddress, nfds_t(buffer.count), wait.milliseconds ?? -1)
                }
                if entries[0].revents != 0 { kick.clear() }
                if isEnding.value.load(ordering: .acquiring) { break }
                wait = step()
            }
        }
    }
}

/// The entry of a device's thread: a C callback, so nonisolated and without captures.
private func threadMain(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let argument = unsafe argument else { return nil }
    let start = unsafe Unmanaged<DeviceThread.Start>.fromOpaque(argument).takeRetainedValue()
    unsafe cur_prepare_thread(start.name)
    start.run()
    return nil
}
