/// The two sides of the copy loop, each a process of its own (this program again), so that nothing is shared that a
/// migration could not share. They talk to the benchmark in lines of JSON.

import ArgumentParser
import CHarness
import Foundation
import Glibc
import HarnessSupport

/// What a side says when it is done.
struct LimitResult: Codable {
    var started: UInt64
    var once: UInt64
    var finished: UInt64
    var cpuNanoseconds: UInt64
    var wrongPages: Int
}

/// Options that both sides share.
struct LimitOptions: ParsableArguments {
    @Option(help: "MiB of memory on each side.") var memory: Int
    @Option(help: "MiB to move; more than the memory means more passes over its start.") var total: Int
    @Option(help: "Connections.") var lanes: Int
    @Option(help: "The path of a UNIX socket, instead of TCP.") var path: String?

    func makeMemory(fill: Bool, populate: Bool) throws -> UnsafeMutableRawPointer {
        guard let memory = harness_limit_memory(UInt64(memory) << 20, fill ? 1 : 0, populate ? 1 : 0) else {
            throw HarnessError("no memory for the copy loop: \(String(cString: strerror(errno)))")
        }
        return memory
    }

    func move(
        _ memory: UnsafeMutableRawPointer, _ sockets: [Int32], verify: Bool = false,
        _ body: (UnsafePointer<harness_limit>, UnsafeMutableRawPointer, UnsafeMutablePointer<harness_limit_result>) ->
            Int32
    ) throws -> LimitResult {
        var limit = harness_limit()
        limit.memory_bytes = UInt64(self.memory) << 20
        limit.total_bytes = UInt64(total) << 20
        limit.lanes = Int32(lanes)
        limit.verify = verify ? 1 : 0
        withUnsafeMutableBytes(of: &limit.sockets) { raw in
            raw.copyBytes(from: sockets.withUnsafeBytes { Array($0) })
        }
        var result = harness_limit_result()
        let code = body(&limit, memory, &result)
        guard code == 0 else { throw HarnessError("copy loop: \(String(cString: strerror(-code)))") }
        return LimitResult(
            started: result.started, once: result.once, finished: result.finished,
            cpuNanoseconds: result.cpu_nanoseconds, wrongPages: Int(result.wrong_pages))
    }
}

private func checked(_ descriptor: Int32, _ what: String) throws -> Int32 {
    guard descriptor >= 0 else { throw HarnessError("cannot \(what): \(String(cString: strerror(-descriptor)))") }
    return descriptor
}

private func printLine(_ value: some Encodable) throws {
    try FileHandle.standardOutput.write(contentsOf: try JSONEncoder().encode(value) + Data("\n".utf8))
}

struct LimitReceive: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "limit-receive", abstract: "The copy loop's receiving side.", shouldDisplay: false)

    @OptionGroup var options: LimitOptions
    @Flag(help: "Hash each page that came and compare.") var verify = false
    @Flag(help: "Leave the memory untouched before.") var untouched = false

    func run() throws {
        let memory = try options.makeMemory(fill: false, populate: !untouched)
        var port: UInt16 = 0
        let listener = try checked(harness_listen(options.path, &port), "listen")
        try printLine(["port": Int(port)])
        let sockets = try (0..<options.lanes).map { _ in try checked(harness_accept(listener), "accept") }
        try printLine(try options.move(memory, sockets, verify: verify, harness_limit_receive))
    }
}

struct LimitSend: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "limit-send", abstract: "The copy loop's sending side.", shouldDisplay: false)

    @OptionGroup var options: LimitOptions
    @Option(help: "The port of the other side.") var port: Int?

    func run() throws {
        let memory = try options.makeMemory(fill: true, populate: true)
        try printLine(["ready": true])
        guard readLine() != nil else { return }
        // Connecting belongs to what is measured, as it does in a migration.
        let begun = monotonicNanoseconds()
        let sockets = try (0..<options.lanes).map { _ in
            try checked(harness_connect(options.path, UInt16(port ?? 0)), "connect")
        }
        var result = try options.move(memory, sockets, harness_limit_send)
        result.started = begun
        try printLine(result)
    }
}
