/// Where the guest's serial output goes.

import Control
import Glibc
import Synchronization

/// Passes output to whoever wants it. Called on the machine's console thread, which may wait.
final class SerialRelay: Sendable {
    private let watch: GuestWatch
    private let isStandardOutput: Bool
    private let console = Mutex<ConsoleServer?>(nil)

    init(watch: GuestWatch, mode: SerialMode) {
        self.watch = watch
        isStandardOutput = mode == .stdio
    }

    func connect(_ server: ConsoleServer?) { console.withLock { $0 = server } }

    func deliver(_ bytes: [UInt8]) {
        watch.append(bytes)
        if isStandardOutput { _ = Output.writeAll(bytes, to: STDOUT_FILENO) }
        console.withLock { $0 }?.deliver(bytes)
    }
}
