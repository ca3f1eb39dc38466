/// The right to a VM name, held by the VM's process as long as it lives.

import Glibc
import Synchronization

/// A locked `NAME.lock`. The kernel drops the lock when the process dies, however it dies, so a file whose lock can
/// be had belongs to nobody, and the socket beside it is stale.
public final class NameClaim: Sendable {
    private struct Held {
        var name: VMName
        var lock: Descriptor?
    }
    private let held: Mutex<Held>
    public let directory: RuntimeDirectory

    /// The name that is held now.
    public var name: VMName { held.withLock { $0.name } }
    public var socketPath: String { directory.socketPath(of: name) }
    public var consolePath: String { directory.consolePath(of: name) }
    public var reportPath: String { directory.reportPath(of: name) }

    /// Takes `name` in `directory` (made if missing) and removes what a dead process left under it.
    ///
    /// - Throws: `nameTaken` if a live process holds it; `badName` if its socket's path would be too long.
    public init(
        _ name: VMName, in directory: RuntimeDirectory, patience: Duration = .milliseconds(200)
    ) throws(ControlError) {
        try directory.prepare()
        let lock = try Self.lock(name, in: directory, patience: patience)
        self.directory = directory
        held = Mutex(Held(name: name, lock: lock))
        unsafe unlink(directory.socketPath(of: name))
        unsafe unlink(directory.consolePath(of: name))
    }

    deinit { release() }

    /// Moves to another name: the sockets keep working, under their new paths.
    ///
    /// - Throws: `nameTaken` while somebody else holds `newName`; the old name then stays.
    public func rename(to newName: VMName) throws(ControlError) {
        let oldName = name
        let newLock = try Self.lock(newName, in: directory, patience: .zero)
        // A bound socket answers under whatever path its file has. The console is there or not.
        if unsafe Glibc.rename(directory.socketPath(of: oldName), directory.socketPath(of: newName)) != 0,
            errno != ENOENT
        {
            let code = errno
            unsafe unlink(directory.lockPath(of: newName))
            throw .system("rename", code, "Cannot give \(oldName) the name \(newName)")
        }
        _ = unsafe Glibc.rename(directory.consolePath(of: oldName), directory.consolePath(of: newName))
        unsafe unlink(directory.lockPath(of: oldName))
        held.withLock { $0 = Held(name: newName, lock: newLock) }
    }

    /// Gives the name back and removes the sockets. The report stays.
    public func release() {
        held.withLock { held in
            guard held.lock != nil else { return }
            unsafe unlink(directory.socketPath(of: held.name))
            unsafe unlink(directory.consolePath(of: held.name))
            // Unlinked while still locked: whoever waits for this lock sees that its path is gone and starts over.
            unsafe unlink(directory.lockPath(of: held.name))
            held.lock = nil
        }
    }

    private static func lock(
        _ name: VMName, in directory: RuntimeDirectory, patience: Duration
    ) throws(ControlError) -> Descriptor {
        let socketPath = directory.socketPath(of: name)
        // The console's path is the longest.
        let excess = directory.consolePath(of: name).utf8.count - RuntimeDirectory.maximumSocketPath
        guard excess <= 0 else {
            throw ControlError(
                .badName,
                "The path of the control socket \(socketPath) is too long by \(excess) bytes: use a shorter "
                    + "name, or set MIGRATECTL_RUNTIME_DIR to a shorter path.")
        }
        let path = directory.lockPath(of: name)
        let deadline = Deadline(after: patience)
        while true {
            let raw = unsafe open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
            guard raw >= 0 else {
                throw .system("open", errno, "Cannot open the lock \(path)", as: .runtimeDirectory)
            }
            let descriptor = Descriptor(raw)
            if flock(raw, LOCK_EX | LOCK_NB) == 0 {
                // The holder before may have unlinked the file between our open and our lock: then this lock is on
                // nothing that anybody else can see.
                var ours = stat()
                var onDisk = stat()
                if unsafe fstat(raw, &ours) == 0, unsafe lstat(path, &onDisk) == 0, ours.st_ino == onDisk.st_ino,
                    ours.st_dev == onDisk.st_dev
                {
                    writeProcessID(to: raw)
                    return descriptor
                }
                continue
            }
            guard errno == EWOULDBLOCK || errno == EINTR else {
                throw .system("flock", errno, "Cannot lock \(path)", as: .runtimeDirectory)
            }
            // A process that cleans up a stale name holds its lock for an instant.
            if deadline.hasPassed {
                let owner = processID(in: raw).map { " (process \($0))" } ?? ""
                throw ControlError(
                    .nameTaken,
                    "The name \(name) is taken by a running VM\(owner): choose another with --name, or stop it "
                        + "with: migratectl stop \(name)")
            }
            usleep(10_000)
        }
    }

    private static func writeProcessID(to descriptor: Int32) {
        let text = Array("\(getpid())\n".utf8)
        ftruncate(descriptor, 0)
        _ = unsafe text.withUnsafeBytes { unsafe pwrite(descriptor, $0.baseAddress, $0.count, 0) }
    }

    private static func processID(in descriptor: Int32) -> Int? {
        var bytes = [UInt8](repeating: 0, count: 16)
        let count = unsafe bytes.withUnsafeMutableBytes { unsafe pread(descriptor, $0.baseAddress, $0.count, 0) }
        guard count > 0 else { return nil }
        return Int(String(decoding: bytes.prefix(count).prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self))
    }
}
