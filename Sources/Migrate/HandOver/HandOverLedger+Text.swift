/// A ledger as a small text file, so that a person can read what was decided. Read back strictly: what this program
/// would not have written is refused.

extension HandOverLedger {
    /// Longest name of a VM, or address of a peer, in bytes.
    public static let textLimit = 255
    private static let title = "migratectl hand-over 1"

    /// The file's content.
    public func text() throws(HandOverLedgerError) -> String {
        for (what, value) in [("machine", machine), ("peer", peer)] where !Self.isPlain(value) {
            throw .unfit("the \(what) cannot be put on record: over \(Self.textLimit) bytes, or control characters")
        }
        let body = """
            \(Self.title)
            role=\(role.word)
            session=\(session)
            attempt=\(attempt.rawValue)
            digest=\(Hexadecimal.string(digest.rawValue))
            mode=\(mode.word)
            phase=\(phase.word)
            machine=\(machine)
            peer=\(peer)

            """
        return body + "check=\(Hexadecimal.string(Self.check(body)))\n"
    }

    /// Reads what `text` wrote.
    public init(text: String) throws(HandOverLedgerError) {
        // By bytes: characters would let a carriage return hide in a line's end.
        let lines = text.utf8.split(separator: 0x0a, omittingEmptySubsequences: false).map { String(Substring($0)) }
        guard lines.count == 11, lines[10].isEmpty else { throw .damaged("it does not have ten lines") }
        guard lines[0] == Self.title else { throw .damaged("its first line is not '\(Self.title)'") }
        func value(_ line: Int, _ key: String) throws(HandOverLedgerError) -> String {
            guard lines[line].utf8.starts(with: "\(key)=".utf8) else {
                throw .damaged("line \(line + 1) is not \(key)")
            }
            return String(Substring(lines[line].utf8.dropFirst(key.utf8.count + 1)))
        }
        func need<Value>(_ found: Value?, _ key: String) throws(HandOverLedgerError) -> Value {
            guard let found else { throw .damaged("its \(key) cannot be") }
            return found
        }
        let check = try need(Hexadecimal.value(value(9, "check")), "check")
        let body = lines[0..<9].joined(separator: "\n") + "\n"
        guard check == Self.check(body) else { throw .damaged("its check does not fit its content") }
        let role = try value(1, "role")
        let attempt = try value(3, "attempt")
        let mode = try value(5, "mode")
        let phase = try value(6, "phase")
        self.init(
            role: try need(Role.allCases.first { $0.word == role }, "role"),
            session: try need(SessionIdentifier(value(2, "session")), "session"),
            attempt: AttemptNumber(try need(UInt32(attempt).flatMap { "\($0)" == attempt ? $0 : nil }, "attempt")),
            digest: MemoryDigest(try need(Hexadecimal.value(value(4, "digest")), "digest")),
            mode: try need(HandOverMode.allCases.first { $0.word == mode }, "mode"),
            phase: try need(Phase.allCases.first { $0.word == phase }, "phase"),
            machine: try value(7, "machine"), peer: try value(8, "peer"))
        guard Self.isPlain(machine), Self.isPlain(peer) else { throw .damaged("it holds control characters") }
    }

    private static func isPlain(_ text: String) -> Bool {
        text.utf8.count <= textLimit && text.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7f }
    }

    /// FNV-1a: enough to notice a torn or edited file. Whoever can write the file can also compute it.
    private static func check(_ body: String) -> UInt64 {
        body.utf8.reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x0000_0100_0000_01b3 }
    }
}

extension HandOverLedger.Role {
    /// As it stands in the file and in a file's name.
    var word: String {
        switch self {
        case .source: "source"
        case .destination: "destination"
        }
    }
}

extension HandOverMode {
    var word: String {
        switch self {
        case .preCopy: "precopy"
        case .postCopy: "postcopy"
        }
    }
}

extension HandOverLedger.Phase {
    var word: String {
        switch self {
        case .givenAway: "given-away"
        case .takenBack: "taken-back"
        case .ready: "ready"
        case .running: "running"
        case .resolvedHere: "resolved-here"
        case .void: "void"
        case .done: "done"
        }
    }
}

/// Why a ledger cannot be written or believed.
public enum HandOverLedgerError: Error, Equatable, CustomStringConvertible {
    /// The value itself cannot be written.
    case unfit(String)
    /// The file is not what this program writes.
    case damaged(String)
    /// The file or its directory belongs to somebody else, or others may change it.
    case notOurs(String)
    /// A system call failed.
    case system(call: String, path: String, errno: Int32)

    public var description: String {
        switch self {
        case .unfit(let why): why
        case .damaged(let why): "the hand-over ledger is damaged: \(why)"
        case .notOurs(let why): "the hand-over ledger is not trusted: \(why)"
        case .system(let call, let path, let code): "\(call) failed on \(path) with errno \(code)"
        }
    }
}
