/// Keeps ledgers as files in the runtime directory: one a session and role, replaced as a whole or not at all.

import Glibc

public struct HandOverLedgerStore: Sendable {
    /// Owned by this user, writable by nobody else.
    public let directory: String
    /// A ledger is a few hundred bytes; a longer file is not one.
    private static let byteLimit = 4096
    private static let suffix = ".hand-over"

    public init(directory: String) {
        self.directory = directory
    }

    /// The file's name for a session.
    public static func fileName(_ role: HandOverLedger.Role, _ session: SessionIdentifier) -> String {
        "\(session).\(role.word)\(suffix)"
    }

    /// Puts a ledger in the place of the one before it. When this throws, the one before still stands; when it
    /// returns, the new one does, for every process that reads it from now on.
    ///
    /// Nothing is synced to a disk: the VM stands still meanwhile, and only a crash of the whole host could undo what a
    /// file system has taken, a crash that ends the VM, too, of which the ledger speaks.
    public func write(_ ledger: HandOverLedger) throws(HandOverLedgerError) {
        let bytes = Array(try ledger.text().utf8)
        let folder = try openDirectory(creating: true)
        defer { close(folder) }
        let name = Self.fileName(ledger.role, ledger.session)
        // One name, used again: a process that is killed here leaves at most one such file a session.
        let temporary = ".\(name).new"
        let flags = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC
        let file = unsafe openat(folder, temporary, flags, 0o600)
        guard file >= 0 else { throw failed("open", temporary) }
        do {
            defer { close(file) }
            var done = 0
            while done < bytes.count {
                let count = unsafe bytes.withUnsafeBytes { buffer in
                    unsafe Glibc.write(file, buffer.baseAddress.map { unsafe $0 + done }, buffer.count - done)
                }
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { throw giveUp("write", folder, temporary) }
                done += count
            }
        }
        guard unsafe renameat(folder, temporary, folder, name) == 0 else { throw giveUp("rename", folder, temporary) }
    }

    /// The ledger of a session, or `nil` when there is none.
    public func read(
        _ role: HandOverLedger.Role, _ session: SessionIdentifier
    ) throws(HandOverLedgerError) -> HandOverLedger? {
        guard let folder = try openExisting() else { return nil }
        defer { close(folder) }
        return try read(Self.fileName(role, session), in: folder)
    }

    /// All ledgers, and what is wrong with files that should be ledgers and are not.
    public func readAll() throws(HandOverLedgerError) -> (ledgers: [HandOverLedger], faults: [String]) {
        guard let folder = try openExisting() else { return ([], []) }
        defer { close(folder) }
        var ledgers: [HandOverLedger] = []
        var faults: [String] = []
        for name in try names(in: folder) where name.hasSuffix(Self.suffix) && !name.hasPrefix(".") {
            do {
                if let ledger = try read(name, in: folder) { ledgers.append(ledger) }
            } catch {
                faults.append("\(directory)/\(name): \(error)")
            }
        }
        return (ledgers, faults)
    }

    /// Forgets a session. That there is none is no error.
    public func remove(_ role: HandOverLedger.Role, _ session: SessionIdentifier) throws(HandOverLedgerError) {
        guard let folder = try openExisting() else { return }
        defer { close(folder) }
        let name = Self.fileName(role, session)
        for name in [".\(name).new", name] where unsafe unlinkat(folder, name, 0) != 0 && errno != ENOENT {
            throw failed("unlink", name)
        }
    }

    // MARK: Files that are not trusted

    private func read(_ name: String, in folder: Int32) throws(HandOverLedgerError) -> HandOverLedger? {
        // Not blocking: a FIFO that somebody put there must not hold up a hand-over.
        let file = unsafe openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
        guard file >= 0 else {
            if errno == ENOENT { return nil }
            if errno == ELOOP { throw .notOurs("\(name) is a symbolic link") }
            throw failed("open", name)
        }
        defer { close(file) }
        var status = stat()
        guard unsafe fstat(file, &status) == 0 else { throw failed("fstat", name) }
        guard status.st_mode & S_IFMT == S_IFREG else { throw .notOurs("\(name) is not a file") }
        try check(status, name)
        guard status.st_size <= Self.byteLimit else { throw .damaged("\(name) has \(status.st_size) bytes") }

        var bytes = [UInt8](repeating: 0, count: Self.byteLimit + 1)
        var filled = 0
        while filled < bytes.count {
            let count = unsafe bytes.withUnsafeMutableBytes { buffer in
                unsafe Glibc.read(file, buffer.baseAddress.map { unsafe $0 + filled }, buffer.count - filled)
            }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw failed("read", name) }
            if count == 0 { break }
            filled += count
        }
        guard filled <= Self.byteLimit, let text = String(validating: bytes[..<filled], as: UTF8.self) else {
            throw .damaged("\(name) is not text of at most \(Self.byteLimit) bytes")
        }
        let ledger = try HandOverLedger(text: text)
        // A ledger under another session's name would answer for it.
        guard name == Self.fileName(ledger.role, ledger.session) else {
            throw .damaged("\(name) speaks of another session")
        }
        return ledger
    }

    private func openExisting() throws(HandOverLedgerError) -> Int32? {
        do {
            return try openDirectory(creating: false)
        } catch .system(call: _, path: _, errno: ENOENT) {
            return nil
        } catch {
            throw error
        }
    }

    private func openDirectory(creating: Bool) throws(HandOverLedgerError) -> Int32 {
        if creating, unsafe mkdir(directory, 0o700) != 0, errno != EEXIST { throw failed("mkdir", directory) }
        let folder = unsafe open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard folder >= 0 else { throw failed("open", directory) }
        var status = stat()
        guard unsafe fstat(folder, &status) == 0 else {
            let error = failed("fstat", directory)
            close(folder)
            throw error
        }
        do {
            try check(status, directory)
        } catch {
            close(folder)
            throw error
        }
        return folder
    }

    private func check(_ status: stat, _ name: String) throws(HandOverLedgerError) {
        guard status.st_uid == geteuid() else { throw .notOurs("\(name) belongs to user \(status.st_uid)") }
        guard status.st_mode & 0o022 == 0 else { throw .notOurs("others may write \(name)") }
    }

    private func names(in folder: Int32) throws(HandOverLedgerError) -> [String] {
        // `fdopendir` takes its descriptor along, so it gets one of its own.
        let own = unsafe openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard own >= 0 else { throw failed("open", directory) }
        guard let stream = unsafe fdopendir(own) else {
            let error = failed("fdopendir", directory)
            close(own)
            throw error
        }
        defer { unsafe closedir(stream) }
        var names: [String] = []
        while let entry = unsafe readdir(stream) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            names.append(name)
        }
        return names.sorted()
    }

    private func failed(_ call: String, _ path: String) -> HandOverLedgerError {
        .system(call: call, path: path, errno: errno)
    }

    /// The error of the call just made; the unfinished file goes.
    private func giveUp(_ call: String, _ folder: Int32, _ temporary: String) -> HandOverLedgerError {
        let error = failed(call, temporary)
        _ = unsafe unlinkat(folder, temporary, 0)
        return error
    }
}
