/// Small files that a person names on the command line.

import Glibc

enum InputFile {
    /// The bytes of a file that is no longer than `limit`; `-` is standard input.
    static func read(_ path: String, limit: Int) throws -> [UInt8] {
        let descriptor = path == "-" ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw failure(path, errno) }
        defer { close(descriptor) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 16 << 10)
        while true {
            let count = Glibc.read(descriptor, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw failure(path, errno) }
            if count == 0 { return bytes }
            bytes += buffer[..<count]
            guard bytes.count <= limit else {
                throw CommandError(.usage, "\(path) is longer than \(limit >> 10) KiB.")
            }
        }
    }

    private static func failure(_ path: String, _ code: Int32) -> CommandError {
        CommandError(.usage, "cannot read \(path): \(String(cString: strerror(code)))")
    }
}
