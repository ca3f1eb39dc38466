import Foundation
import SelfTest

/// What a test gives up with, in words.
struct Failure: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

/// A QEMU that runs the test guest: its serial line by pipes, its monitor and debugger by sockets. Ends with the value.
final class QEMU {
    enum Accelerator: String {
        case kvm
        case tcg

        /// kvm_pvm does not know the MSR that `arch-capabilities` promises; other hosts do not mind its absence.
        var arguments: [String] {
            switch self {
            case .kvm: ["-accel", "kvm", "-cpu", "host,-arch-capabilities"]
            case .tcg: ["-accel", "tcg", "-cpu", "max"]
            }
        }
    }

    static let path = "/usr/bin/qemu-system-x86_64"
    static var isInstalled: Bool { access(path, X_OK) == 0 }
    static var hasKVM: Bool { access("/dev/kvm", R_OK | W_OK) == 0 }

    private let directory: URL
    private let process = Process()
    private let input = Pipe()
    private let output = Pipe()
    private var reader = SelfTestLineReader()
    private var pending: [SelfTestEvent] = []

    /// All that the guest has said so far.
    var report: SelfTestReport { reader.report }

    init(
        _ accelerator: Accelerator, memoryMiB: Int, cpus: Int = 1, commandLine: String, incoming: Bool = false
    ) throws {
        directory = FileManager.default.temporaryDirectory.appending(path: "selftest-\(UUID().uuidString.prefix(8))")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        let image = directory.appending(path: "selftest.elf")
        try Data(SelfTestImage.bytes).write(to: image)
        process.executableURL = URL(filePath: Self.path)
        process.arguments =
            accelerator.arguments + [
                "-m", "\(memoryMiB)", "-smp", "\(cpus)", "-M", "q35", "-nodefaults", "-display", "none", "-no-reboot",
                "-serial", "stdio", "-device", "isa-debug-exit,iobase=0x501,iosize=2", "-qmp",
                "unix:\(socket("qmp")),server=on,wait=off", "-gdb", "unix:\(socket("gdb")),server=on,wait=off",
                "-kernel", image.path(), "-append", commandLine,
            ] + (incoming ? ["-incoming", "defer"] : [])
        process.standardInput = input
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        try process.run()
    }

    deinit {
        // A child of a test's thread inherits its signal mask, in which SIGTERM is blocked.
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        process.waitUntilExit()
        try? FileManager.default.removeItem(at: directory)
    }

    func socket(_ name: String) -> String { directory.appending(path: name).path() }

    func send(_ command: Character) throws {
        try input.fileHandleForWriting.write(contentsOf: Data(String(command).utf8))
    }

    /// Waits for the first event that `match` accepts. Events before it are passed over, those after it kept.
    func wait<Value>(
        for what: String, seconds: Double = 60, _ match: (SelfTestEvent) -> Value?
    ) throws -> Value {
        let end = ContinuousClock.now + .seconds(seconds)
        while true {
            while !pending.isEmpty {
                if let value = match(pending.removeFirst()) { return value }
            }
            var poll = pollfd(fd: output.fileHandleForReading.fileDescriptor, events: Int16(POLLIN), revents: 0)
            guard ContinuousClock.now < end else { throw Failure("no \(what) in \(seconds) s; got \(report)") }
            guard Glibc.poll(&poll, 1, 100) > 0 else { continue }
            let data = output.fileHandleForReading.availableData
            guard !data.isEmpty else { throw Failure("the guest ended without \(what); got \(report)") }
            pending += reader.append(data)
        }
    }

    func waitUntilReady() throws -> SelfTestReport.Ready {
        try wait(for: "ready") { if case .ready(let ready) = $0 { ready } else { nil } }
    }

    /// Asks for a verification and waits for its answer.
    func verify() throws -> SelfTestReport.Verification {
        try send("v")
        return try wait(for: "verification") { if case .verify(let answer) = $0 { answer } else { nil } }
    }

    /// Waits for the end; the status that QEMU exits with.
    func waitForExit() throws -> Int32 {
        _ = try wait(for: "exit") { event in
            switch event {
            case .exit, .error, .fault: true
            default: nil
            }
        }
        process.waitUntilExit()
        return process.terminationStatus
    }

    /// Access to guest physical memory through the debugger's stub. The VM stands meanwhile.
    func withStoppedVM<Value>(_ body: (StoppedVM) throws -> Value) throws -> Value {
        let stub = try Wire(path: socket("gdb"))
        guard try stub.debug("Qqemu.PhyMemMode:1") == "OK" else { throw Failure("no physical memory in the stub") }
        let value = try body(StoppedVM(stub: stub))
        // Only when the stub has answered does the VM run again, and can somebody connect again.
        guard try stub.debug("D") == "OK" else { throw Failure("the stub does not let go") }
        return value
    }

    struct StoppedVM {
        fileprivate let stub: Wire

        func read(_ address: UInt64, count: Int) throws -> [UInt8] {
            var bytes: [UInt8] = []
            while bytes.count < count {
                // An answer fits into 4 KiB.
                let part = min(count - bytes.count, 1024)
                let place = String(address + UInt64(bytes.count), radix: 16)
                let text = Array(try stub.debug("m\(place),\(String(part, radix: 16))").utf8)
                guard text.count == part * 2 else {
                    throw Failure("the stub answered \(String(decoding: text, as: UTF8.self))")
                }
                for index in stride(from: 0, to: text.count, by: 2) {
                    guard let byte = UInt8(String(decoding: text[index...index + 1], as: UTF8.self), radix: 16) else {
                        throw Failure("the stub answered \(String(decoding: text, as: UTF8.self))")
                    }
                    bytes.append(byte)
                }
            }
            return bytes
        }

        func write(_ bytes: [UInt8], to address: UInt64) throws {
            for start in stride(from: 0, to: bytes.count, by: 1024) {
                let part = bytes[start..<min(start + 1024, bytes.count)]
                let hex = part.map { String(UInt16($0) + 0x100, radix: 16).dropFirst() }.joined()
                let place = String(address + UInt64(start), radix: 16)
                let answer = try stub.debug("M\(place),\(String(part.count, radix: 16)):\(hex)")
                guard answer == "OK" else { throw Failure("the stub answered \(answer)") }
            }
        }
    }

    // The monitor.

    /// Migrates this VM to another QEMU that waits for one. Returns when it runs there.
    func migrate(to destination: QEMU) throws {
        let here = try Wire(path: socket("qmp"))
        let there = try Wire(path: destination.socket("qmp"))
        for monitor in [here, there] {
            _ = try monitor.line()
            _ = try monitor.command("qmp_capabilities")
            _ = try monitor.command(
                "migrate-set-parameters", arguments: ["max-bandwidth": 1 << 40, "downtime-limit": 100])
        }
        let uri = "unix:\(destination.socket("migration"))"
        _ = try there.command("migrate-incoming", arguments: ["uri": uri])
        _ = try here.command("migrate", arguments: ["uri": uri])
        for _ in 0..<600 {
            let answer = try here.command("query-migrate")
            if answer.contains("\"completed\"") { return }
            if answer.contains("\"failed\"") { throw Failure("QEMU's migration failed: \(answer)") }
            usleep(100_000)
        }
        throw Failure("QEMU's migration does not end")
    }
}

/// A connected UNIX socket that speaks in lines or in the debugger's packets.
private final class Wire {
    private let descriptor: Int32
    private var buffer: [UInt8] = []

    init(path: String) throws {
        descriptor = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8) + [0]
        guard bytes.count <= MemoryLayout.size(ofValue: address.sun_path) else { throw Failure("\(path) is too long") }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        for _ in 0..<100 {
            let result = withUnsafeBytes(of: &address) { raw in
                connect(descriptor, raw.assumingMemoryBound(to: sockaddr.self).baseAddress, socklen_t(raw.count))
            }
            if result == 0 {
                // A test that waits for ever tells nothing.
                var limit = timeval(tv_sec: 30, tv_usec: 0)
                setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
                return
            }
            usleep(50_000)
        }
        throw Failure("cannot connect to \(path)")
    }

    deinit { close(descriptor) }

    func send(_ text: String) throws {
        let bytes = Array(text.utf8)
        guard Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count else {
            throw Failure("the connection to QEMU broke")
        }
    }

    private func receive() throws {
        var chunk = [UInt8](repeating: 0, count: 65536)
        let count = recv(descriptor, &chunk, chunk.count, 0)
        guard count > 0 else { throw Failure("QEMU closed the connection or does not answer") }
        buffer += chunk[..<count]
    }

    /// The next line.
    func line() throws -> String {
        while true {
            if let end = buffer.firstIndex(of: 0x0a) {
                let line = String(decoding: buffer[..<end], as: UTF8.self)
                buffer.removeSubrange(...end)
                return line
            }
            try receive()
        }
    }

    /// One command of the monitor; events in between are passed over.
    func command(_ name: String, arguments: [String: any Sendable] = [:]) throws -> String {
        let object: [String: any Sendable] = ["execute": name, "arguments": arguments]
        try send(String(decoding: try JSONSerialization.data(withJSONObject: object), as: UTF8.self) + "\n")
        while true {
            let answer = try line()
            if answer.hasPrefix("{\"return\"") { return answer }
            if answer.hasPrefix("{\"error\"") { throw Failure("\(name): \(answer)") }
        }
    }

    /// One packet to the debugger's stub and its answer, without the frame.
    func debug(_ packet: String) throws -> String {
        let sum = packet.utf8.reduce(UInt8(0), &+)
        try send("+$\(packet)#" + String(UInt16(sum) + 0x100, radix: 16).dropFirst())
        while true {
            if let start = buffer.firstIndex(of: UInt8(ascii: "$")),
                let end = buffer[start...].firstIndex(of: UInt8(ascii: "#")), end + 2 < buffer.count
            {
                let text = String(decoding: buffer[(start + 1)..<end], as: UTF8.self)
                buffer.removeSubrange(...(end + 2))
                // What stopped the VM is told when somebody connects; it is not the answer.
                if text.hasPrefix("T") { continue }
                return text
            }
            try receive()
        }
    }
}
