/// Where words go: standard output is data, standard error is talk.

import Control
import Glibc

enum Output {
    /// Data: a line for standard output.
    static func line(_ text: String) throws { try write(text + "\n") }

    /// Data: one value as JSON. Pretty for people, on one line for pipes.
    static func json(_ value: some Encodable) throws {
        try line(String(decoding: try ControlJSON.encode(value, pretty: isatty(STDOUT_FILENO) != 0), as: UTF8.self))
    }

    /// Data: one value as JSON on one line, as a stream of values has it.
    static func jsonLine(_ value: some Encodable) throws {
        try line(String(decoding: try ControlJSON.encode(value), as: UTF8.self))
    }

    /// Talk: a line for standard error. If nobody listens, nobody misses it.
    static func note(_ text: String) { _ = writeAll(Array((text + "\n").utf8), to: STDERR_FILENO) }

    /// Whether somebody watches standard error.
    static var isWatched: Bool { isatty(STDERR_FILENO) != 0 }

    /// What was written has arrived: nothing is buffered here, but a full disk is an error all the same.
    static func flush() throws {}

    /// Data: text as it is.
    static func write(_ text: String) throws {
        let code = writeAll(Array(text.utf8), to: STDOUT_FILENO)
        guard code == 0 else {
            // A reader that has seen enough is no failure worth a message.
            throw CommandError(
                .failure, code == EPIPE ? "" : "cannot write the result: \(String(cString: strerror(code)))")
        }
    }

    /// 0, or the errno of the write that failed.
    static func writeAll(_ bytes: [UInt8], to descriptor: Int32) -> Int32 {
        var sent = 0
        while sent < bytes.count {
            let result = bytes.withUnsafeBytes {
                Glibc.write(descriptor, $0.baseAddress?.advanced(by: sent), $0.count - sent)
            }
            if result > 0 {
                sent += result
            } else if errno != EINTR {
                return errno
            }
        }
        return 0
    }
}
