/// The directory in which running VMs are found: for each VM a control socket, a lock and what belongs to it.
///
/// | file | what it is |
/// |---|---|
/// | `NAME.lock` | locked (`flock`) as long as the VM's process lives; holds its process id |
/// | `NAME.sock` | the control socket (HTTP) |
/// | `NAME.console` | the serial console, raw bytes (only with `--serial socket`) |
/// | `NAME.report.json` | what the guest saw and how the last migration went, left behind by a process that ended |

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif
import Glibc

/// A private directory (mode 0700) with one set of files a VM.
public struct RuntimeDirectory: Sendable, Equatable {
    public let path: String

    /// Paths of UNIX sockets have 107 bytes at most (`sun_path` with its closing zero is 108).
    static let maximumSocketPath = 107

    /// - Parameter path: an absolute path; it need not exist yet.
    public init(path: String) throws(ControlError) {
        guard path.hasPrefix("/") else {
            throw ControlError(
                .runtimeDirectory,
                "The runtime directory \(VMName.quoted(path)) is not an absolute path: set "
                    + "MIGRATECTL_RUNTIME_DIR to one.")
        }
        var path = path
        while path.count > 1, path.hasSuffix("/") { path.removeLast() }
        self.path = path
    }

    /// The directory that this user's commands share: `$MIGRATECTL_RUNTIME_DIR`, else `/run/migratectl` for root,
    /// else `$XDG_RUNTIME_DIR/migratectl`.
    public static func standard() throws(ControlError) -> RuntimeDirectory {
        if let path = environment("MIGRATECTL_RUNTIME_DIR") { return try RuntimeDirectory(path: path) }
        if geteuid() == 0 { return try RuntimeDirectory(path: "/run/migratectl") }
        if let path = environment("XDG_RUNTIME_DIR") { return try RuntimeDirectory(path: path + "/migratectl") }
        throw ControlError(
            .runtimeDirectory,
            "There is no runtime directory for control sockets: neither MIGRATECTL_RUNTIME_DIR nor XDG_RUNTIME_DIR is set."
        )
    }

    private static func environment(_ name: String) -> String? {
        guard let value = unsafe getenv(name) else { return nil }
        let text = unsafe String(cString: value)
        return text.isEmpty ? nil : text
    }

    public func socketPath(of name: VMName) -> String { "\(path)/\(name).sock" }
    public func consolePath(of name: VMName) -> String { "\(path)/\(name).console" }
    public func lockPath(of name: VMName) -> String { "\(path)/\(name).lock" }
    public func reportPath(of name: VMName) -> String { "\(path)/\(name).report.json" }

    /// Makes the directory if it is missing, and checks that nobody else can reach into it: whoever can open a
    /// control socket owns the VM, and whoever can write here can put a false socket in its place.
    public func prepare() throws(ControlError) {
        // Parents are not made: a wrong path should be noticed, not built.
        if unsafe mkdir(path, 0o700) != 0, errno != EEXIST {
            throw .system("mkdir", errno, "Cannot make the runtime directory \(path)", as: .runtimeDirectory)
        }
        try check()
    }

    /// Checks an existing directory.
    func check() throws(ControlError) {
        var status = stat()
        guard unsafe lstat(path, &status) == 0 else {
            throw .system("lstat", errno, "Cannot look at the runtime directory \(path)", as: .runtimeDirectory)
        }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw ControlError(
                .runtimeDirectory,
                "The runtime directory \(path) is not a directory: remove it, or set MIGRATECTL_RUNTIME_DIR.")
        }
        guard status.st_uid == geteuid() else {
            throw ControlError(
                .runtimeDirectory,
                "The runtime directory \(path) belongs to user \(status.st_uid), not to user "
                    + "\(geteuid()): run as that user, or set MIGRATECTL_RUNTIME_DIR.")
        }
        guard status.st_mode & 0o077 == 0 else {
            throw ControlError(
                .runtimeDirectory,
                "The runtime directory \(path) is open to other users (mode "
                    + "\(String(status.st_mode & 0o777, radix: 8))): chmod 700 it.")
        }
    }

    /// Checks the directory if there is one, and says whether there is.
    @discardableResult
    func checkIfPresent() throws(ControlError) -> Bool {
        var status = stat()
        if unsafe lstat(path, &status) != 0, errno == ENOENT { return false }
        try check()
        return true
    }

    /// Every name that has a lock file here, alive or not.
    func namesOnDisk() -> [VMName] {
        guard let entries = try? FileManager.default.contentsOfDirectory(atPath: path) else { return [] }
        return entries.compactMap { entry -> VMName? in
            guard entry.hasSuffix(".lock") else { return nil }
            return try? VMName(existing: String(entry.dropLast(5)))
        }.sorted()
    }

    /// The VMs that run now. Files left behind by processes that were killed are cleaned up on the way.
    public func runningNames() throws(ControlError) -> [VMName] {
        // Nothing ran here yet: no VMs, and no directory made by a question.
        guard try checkIfPresent() else { return [] }
        return namesOnDisk().filter { name in
            if isAlive(name) { return true }
            removeStale(name)
            return false
        }
    }

    /// Whether a process answers for `name`. Asks the socket, not the lock: taking the lock even for a moment would
    /// make a VM that starts just then believe that its name is taken.
    public func isAlive(_ name: VMName) -> Bool {
        (try? UnixSocket.connect(to: socketPath(of: name), timeout: .seconds(1))) != nil
    }

    /// Whether a process holds the name, be it starting, running or ending.
    public func isHeld(_ name: VMName) -> Bool {
        guard let claim = try? NameClaim(name, in: self, patience: .zero) else { return true }
        claim.release()
        return false
    }

    /// Removes what a dead process left, unless its lock is held (it may just be starting).
    func removeStale(_ name: VMName) {
        guard let claim = try? NameClaim(name, in: self, patience: .zero) else { return }
        claim.release()
    }
}
