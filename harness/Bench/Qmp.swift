/// QEMU's control protocol: one JSON object a line, replies and events mixed.

import HarnessSupport

final class Qmp {
    private let socket: LocalSocket
    private let name: String
    private var events: [JSON] = []

    init(path: String, of child: Child) throws {
        name = child.name
        socket = try LocalSocket(path: path, seconds: 60, whileRunning: child)
        guard let greeting = try socket.line(seconds: 60), greeting.contains("\"QMP\"") else {
            throw child.failure("does not greet as QMP")
        }
        try execute("qmp_capabilities")
    }

    /// Runs a command and returns what it returned; an error is QEMU's own description.
    @discardableResult
    func execute(_ command: String, _ arguments: [String: JSON] = [:]) throws -> JSON {
        var request: [String: JSON] = ["execute": .string(command)]
        if !arguments.isEmpty { request["arguments"] = .object(arguments) }
        try socket.write(JSON.object(request).text + "\n")
        while true {
            guard let line = try socket.line(seconds: 60) else {
                throw HarnessError("\(name) does not answer \(command)")
            }
            let message = try JSON.parse(line)
            if let value = message["return"] { return value }
            if let error = message["error"] {
                throw HarnessError("\(name): \(command): \(error["desc"]?.string ?? line)")
            }
            events.append(message)
        }
    }

    /// Waits for the first event that `matches`; events before it are forgotten.
    func event(_ what: String, seconds: Double, _ matches: (JSON) throws -> Bool) throws -> JSON {
        let end = monotonicNanoseconds() + UInt64(seconds * 1e9)
        while true {
            while !events.isEmpty {
                let event = events.removeFirst()
                if try matches(event) { return event }
            }
            let now = monotonicNanoseconds()
            guard now < end, let line = try socket.line(seconds: Double(end - now) / 1e9) else {
                throw HarnessError("\(name): waited \(Int(seconds)) s in vain for \(what)")
            }
            events.append(try JSON.parse(line))
        }
    }
}
