/// Keeps a copy of what a connection carried, for `migratectl inspect`.

import Glibc
import Synchronization

/// A file that receives the bytes of one stream. Recording never disturbs a migration: when the file cannot be written
/// (disk full), recording ends and `failure` says why.
package final class StreamRecorder: Sendable {
    private let descriptor: CInt
    private let state = Mutex<String?>(nil)
    let path: String

    /// Creates the file; refuses to follow or to overwrite what is there.
    init(path: String) throws {
        self.path = path
        descriptor = unsafe open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw TransportError(.failed, "cannot create \(path): \(errorText(errno))")
        }
    }

    deinit { close(descriptor) }

    /// Why recording ended early, if it did.
    var failure: String? { state.withLock { $0 } }

    func append(_ bytes: [UInt8]) {
        unsafe bytes.withUnsafeBytes { unsafe append($0) }
    }

    func append(_ bytes: UnsafeRawBufferPointer) {
        state.withLock { failure in
            guard failure == nil else { return }
            var rest = unsafe bytes
            while rest.count > 0 {
                let written = unsafe Glibc.write(descriptor, rest.baseAddress, rest.count)
                if written < 0 {
                    if errno == EINTR { continue }
                    failure = "recording to \(path) ended: \(errorText(errno))"
                    return
                }
                unsafe rest = UnsafeRawBufferPointer(rebasing: rest[written...])
            }
        }
    }
}
