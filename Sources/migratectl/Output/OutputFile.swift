/// Results that go into a file.

import Glibc

enum OutputFile {
    /// Writes all of it, or leaves what was there: aside first, then renamed. Into what is no regular file (a device, a
    /// pipe) it is written directly. `-` is standard output.
    /// - Throws: what the kernel said.
    static func write(_ bytes: [UInt8], to path: String, mode: mode_t) throws {
        if path == "-" { return try check(Output.writeAll(bytes, to: STDOUT_FILENO), path) }
        var status = stat()
        let isReplaceable = stat(path, &status) != 0 || status.st_mode & S_IFMT == S_IFREG
        let temporary = isReplaceable ? path + ".new" : path
        let flags = isReplaceable ? O_CREAT | O_TRUNC : 0
        let descriptor = open(temporary, O_WRONLY | O_CLOEXEC | flags, mode)
        guard descriptor >= 0 else { return try check(errno, path) }
        var code = Output.writeAll(bytes, to: descriptor)
        // What is no file cannot be synced, and need not be.
        if code == 0, fsync(descriptor) != 0, isReplaceable { code = errno }
        close(descriptor)
        if code == 0, isReplaceable, rename(temporary, path) != 0 { code = errno }
        if code != 0, isReplaceable { unlink(temporary) }
        try check(code, path)
    }

    private static func check(_ code: Int32, _ path: String) throws {
        guard code != 0 else { return }
        throw CommandError(
            .failure, "cannot write \(path == "-" ? "to standard output" : path): \(String(cString: strerror(code)))")
    }
}
