import Glibc
import Migrate
import Testing

@Suite("Hand-over ledger")
struct HandOverLedgerTests {
    static let ledger = HandOverLedger(
        role: .source, session: SessionIdentifier(high: 0xabc, low: 0xdef), attempt: AttemptNumber(3),
        digest: MemoryDigest(0x1234_5678_9abc_def0), mode: .preCopy, phase: .givenAway, machine: "web-1",
        peer: "[fe80::1%eth0]:4444")

    /// A directory of its own, removed afterwards.
    static func withDirectory(_ body: (String) throws -> Void) rethrows {
        var template = Array("/tmp/hand-over-ledger.XXXXXX".utf8CString)
        _ = template.withUnsafeMutableBufferPointer { buffer in buffer.baseAddress.map { mkdtemp($0) } }
        let path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        defer {
            if let stream = opendir(path) {
                while let entry = readdir(stream) {
                    let name = withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
                    }
                    if name != ".", name != ".." { unlink("\(path)/\(name)") }
                }
                closedir(stream)
            }
            rmdir(path)
        }
        try body(path)
    }

    static func put(_ text: String, _ path: String, mode: mode_t = 0o600) {
        let file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        _ = text.utf8CString.withUnsafeBytes { write(file, $0.baseAddress, $0.count - 1) }
        close(file)
        chmod(path, mode)
    }

    @Test func everyValueComesBack() throws {
        for role in HandOverLedger.Role.allCases {
            for phase in HandOverLedger.Phase.allCases {
                for mode in HandOverMode.allCases {
                    var ledger = Self.ledger
                    ledger.role = role
                    ledger.phase = phase
                    ledger.mode = mode
                    #expect(try HandOverLedger(text: ledger.text()) == ledger)
                }
            }
        }
    }

    /// The text is a promise to programs and people.
    @Test func content() throws {
        #expect(
            try Self.ledger.text() == """
                migratectl hand-over 1
                role=source
                session=0000000000000abc0000000000000def
                attempt=3
                digest=123456789abcdef0
                mode=precopy
                phase=given-away
                machine=web-1
                peer=[fe80::1%eth0]:4444
                check=cca110990c9cd139

                """)
    }

    @Test func anyChangedByteIsRefused() throws {
        let bytes = Array(try Self.ledger.text().utf8)
        for index in bytes.indices {
            for change in [UInt8(1), 0x0a, 0x20, 0x80] {
                var changed = bytes
                changed[index] ^= change
                let text = String(decoding: changed, as: UTF8.self)
                #expect(throws: HandOverLedgerError.self) { try HandOverLedger(text: text) }
            }
            let cut = String(decoding: bytes[..<index], as: UTF8.self)
            #expect(throws: HandOverLedgerError.self) { try HandOverLedger(text: cut) }
        }
    }

    @Test func namesThatWouldBreakTheFileAreRefused() throws {
        var odd = Self.ledger
        odd.machine = "\u{301}x"
        #expect(try HandOverLedger(text: odd.text()) == odd)
        for name in ["a\nphase=done", "a\rb", "\u{7f}", String(repeating: "x", count: 256)] {
            var ledger = Self.ledger
            ledger.machine = name
            #expect(throws: HandOverLedgerError.self) { try ledger.text() }
        }
    }

    @Test func writeReadReplaceRemove() throws {
        try Self.withDirectory { path in
            let store = HandOverLedgerStore(directory: path + "/made")
            #expect(try store.read(.source, Self.ledger.session) == nil)
            #expect(try store.readAll().ledgers.isEmpty)
            try store.write(Self.ledger)
            var later = Self.ledger
            later.phase = .takenBack
            try store.write(later)
            #expect(try store.read(.source, Self.ledger.session) == later)
            #expect(try store.read(.destination, Self.ledger.session) == nil)
            #expect(try store.readAll().ledgers == [later])
            try store.remove(.source, Self.ledger.session)
            try store.remove(.source, Self.ledger.session)
            #expect(try store.readAll().ledgers.isEmpty)
            rmdir(path + "/made")
        }
    }

    /// A process that was killed while it wrote leaves the ledger before it standing.
    @Test func unfinishedFileIsNoLedger() throws {
        try Self.withDirectory { path in
            let store = HandOverLedgerStore(directory: path)
            try store.write(Self.ledger)
            let name = HandOverLedgerStore.fileName(.source, Self.ledger.session)
            Self.put("migratectl hand-over 1\nrole=so", "\(path)/.\(name).new")
            #expect(try store.readAll().ledgers == [Self.ledger])
            #expect(try store.readAll().faults.isEmpty)
            try store.write(Self.ledger)
            try store.remove(.source, Self.ledger.session)
            #expect(rmdir(path) == 0)
        }
    }

    @Test func hostileFilesAreRefused() throws {
        try Self.withDirectory { path in
            let store = HandOverLedgerStore(directory: path)
            let name = "\(path)/" + HandOverLedgerStore.fileName(.source, Self.ledger.session)
            func refused(_ comment: Comment) {
                #expect(throws: HandOverLedgerError.self, comment) {
                    try store.read(.source, Self.ledger.session)
                }
                unlink(name)
            }
            Self.put(try Self.ledger.text(), name, mode: 0o666)
            refused("others may write it")
            Self.put(String(repeating: "x", count: 5000), name)
            refused("too long")
            Self.put("", name)
            refused("empty")
            Self.put(try Self.ledger.text(), "\(path)/elsewhere")
            symlink("\(path)/elsewhere", name)
            refused("a symbolic link")
            mkfifo(name, 0o600)
            refused("a FIFO")
            mkdir(name, 0o700)
            #expect(throws: HandOverLedgerError.self) { try store.read(.source, Self.ledger.session) }
            rmdir(name)
            var other = Self.ledger
            other.session.low += 1
            Self.put(try other.text(), name)
            #expect(try store.readAll().faults.count == 1)
            refused("another session's")

            chmod(path, 0o777)
            #expect(throws: HandOverLedgerError.self) { try store.write(Self.ledger) }
            chmod(path, 0o700)
        }
    }

    @Test func aFailedWriteLeavesTheOldOne() throws {
        try Self.withDirectory { path in
            let store = HandOverLedgerStore(directory: path)
            try store.write(Self.ledger)
            var unfit = Self.ledger
            unfit.peer = "a\nb"
            #expect(throws: HandOverLedgerError.self) { try store.write(unfit) }
            // The unfinished file's name is taken by a directory: opening it fails.
            let name = HandOverLedgerStore.fileName(.source, Self.ledger.session)
            mkdir("\(path)/.\(name).new", 0o700)
            var later = Self.ledger
            later.phase = .done
            #expect(throws: HandOverLedgerError.self) { try store.write(later) }
            #expect(try store.read(.source, Self.ledger.session) == Self.ledger)
            rmdir("\(path)/.\(name).new")
        }
    }

    /// What a restarted tool makes of each record.
    @Test func restoring() throws {
        for phase in HandOverLedger.Phase.allCases {
            var ledger = Self.ledger
            ledger.phase = phase
            let source = SourceHandOver(restoring: ledger)
            #expect((source != nil) == [.givenAway, .resolvedHere].contains(phase))
            #expect(source?.mayRunVM != true)
            #expect(DestinationHandOver(restoring: ledger) == nil)
            ledger.role = .destination
            let destination = DestinationHandOver(restoring: ledger)
            #expect((destination != nil) == [.ready, .running, .resolvedHere].contains(phase))
            #expect(destination?.mayRunVM != true)
            #expect(SourceHandOver(restoring: ledger) == nil)
        }
    }

    /// The whole hand-over hangs on this write: it must not be what the guest waits for.
    @Test func writingTakesLittleTime() throws {
        try Self.withDirectory { path in
            let store = HandOverLedgerStore(directory: access("/dev/shm", W_OK) == 0 ? "/dev/shm/hand-over-test" : path)
            var best = Duration.seconds(1)
            for _ in 0..<50 {
                best = min(best, try ContinuousClock().measure { try store.write(Self.ledger) })
            }
            print("hand-over ledger: written in \(best) at best in \(store.directory)")
            try store.remove(.source, Self.ledger.session)
            if store.directory.hasPrefix("/dev/shm") { rmdir(store.directory) }
            #expect(best < .milliseconds(5))
        }
    }
}
