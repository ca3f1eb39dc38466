/// What the machine's tests share.

import CKVM
import Glibc
import KVM
import Machine
import Migrate
import Testing
import Units

/// A usable /dev/kvm: without it these tests cannot run.
let hasKVM = access("/dev/kvm", R_OK | W_OK) == 0
let noKVM: Comment = "no usable /dev/kvm on this host"

extension Machine {
    /// A machine that boots the built-in test guest.
    static func selftest(
        _ commandLine: String, memory: UInt64 = 64 << 20, vcpus: Int = 1, host: HostOptions = HostOptions()
    ) throws -> Machine {
        try Machine(
            MachineOptions(
                name: "test", memory: ByteCount(rawValue: memory), vcpuCount: vcpus,
                guest: .selftest(commandLine: commandLine), host: host))
    }

    var serialText: String { String(decoding: serialHistory.bytes, as: UTF8.self) }

    /// Waits until the guest has written `text` to its serial line.
    func waitForSerial(_ text: String, seconds: Double = 30) -> Bool {
        eventually(seconds: seconds) { self.serialText.contains(text) }
    }
}

/// Looks every few milliseconds until something is true.
func eventually(seconds: Double, _ condition: () -> Bool) -> Bool {
    let deadline = ckvm_monotonic_nanoseconds() + UInt64(seconds * 1e9)
    while ckvm_monotonic_nanoseconds() < deadline {
        if condition() { return true }
        usleep(2000)
    }
    return condition()
}

/// Huge pages that the host has free right now.
func freeHugePageCount() -> Int {
    guard let file = fopen("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "r") else { return 0 }
    defer { fclose(file) }
    var line = [CChar](repeating: 0, count: 32)
    return fgets(&line, 32, file) == nil ? 0 : Int(atoi(line))
}

/// A plain thread for a test.
final class TestThread: @unchecked Sendable {
    private var handle = pthread_t()

    init(_ body: @escaping @Sendable () -> Void) {
        let box = Unmanaged.passRetained(Box(body))
        pthread_create(
            &handle, nil,
            { argument in
                guard let argument else { return nil }
                Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().body()
                return nil
            }, box.toOpaque())
    }

    func join() { pthread_join(handle, nil) }

    private final class Box {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
}
