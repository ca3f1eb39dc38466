/// What the two sides of a hand-over say to each other (docs/hand-over.md), without a word about sockets.

/// 128 random bits that name one migration, the same on both sides, on every connection and in both ledgers.
public struct SessionIdentifier: Hashable, Sendable {
    public var high: UInt64
    public var low: UInt64

    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    public static func random() -> Self {
        var generator = SystemRandomNumberGenerator()
        return Self(high: generator.next(), low: generator.next())
    }
}

extension SessionIdentifier: CustomStringConvertible {
    /// 32 hexadecimal digits.
    public var description: String { Hexadecimal.string(high) + Hexadecimal.string(low) }

    /// Reads what `description` wrote; anything else is `nil`.
    public init?(_ text: some StringProtocol) {
        guard text.utf8.count == 32,
            let high = Hexadecimal.value(text.prefix(16)),
            let low = Hexadecimal.value(text.dropFirst(16))
        else { return nil }
        self.init(high: high, low: low)
    }
}

/// Counts the attempts to hand over within one session. The first is 1; 0 means that none was made.
public struct AttemptNumber: RawRepresentable, Hashable, Comparable, Sendable {
    public var rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    public init(_ rawValue: UInt32) { self.rawValue = rawValue }
    public static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }

    /// The next attempt, or `nil` when the numbers are used up.
    public var next: Self? { rawValue == .max ? nil : Self(rawValue + 1) }
}

/// The digest that both sides must agree on before the VM may change hands: of all guest memory in pre-copy; of the
/// state and the set of stale pages in post-copy, where memory itself is compared at the end.
public struct MemoryDigest: RawRepresentable, Hashable, Sendable {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    public init(_ rawValue: UInt64) { self.rawValue = rawValue }
    /// Not known yet: messages of an attempt that has not come to its FINAL.
    public static let unknown = Self(0)
}

/// What moves before COMMIT and what after it. Everything in which the two ways differ hangs on this value.
public enum HandOverMode: UInt8, Hashable, Sendable, CaseIterable {
    /// All of memory is at the destination before READY; the source frees the VM at RUNNING.
    case preCopy = 1
    /// Pages follow after RUNNING: the source serves them from FINAL on, and frees the VM at INSTALLED.
    case postCopy = 2
}

/// One message. It always names the session, the attempt and the digest that it is about.
public struct HandOverMessage: Hashable, Sendable {
    /// What is said.
    public enum Body: Hashable, Sendable {
        /// Source: all that this attempt sends is on its way (pages, state, digest).
        case final(HandOverMode)
        /// Destination: loaded, checked, holds what it needs, stopped. It may run at COMMIT.
        case ready
        /// Destination: it will not run this attempt.
        case refused(RefusalReason)
        /// Source: this attempt is over, the VM runs here.
        case void(VoidReason)
        /// Destination: has understood VOID. Only then a further attempt may begin.
        case voided
        /// Source: the VM is yours. The source never resumes by itself afterwards.
        case commit
        /// Destination: the VM runs here.
        case running
        /// Destination, post-copy: every page is installed and checked.
        case installed
        /// Source: has freed its copy; the session is over.
        case done
        /// Destination, restarted after its process died: the copy is gone. `hasRun` when its ledger says that the
        /// VM had run there.
        case lost(hasRun: Bool)
        /// Either: still there.
        case alive
    }

    public var session: SessionIdentifier
    public var attempt: AttemptNumber
    public var digest: MemoryDigest
    public var body: Body

    public init(session: SessionIdentifier, attempt: AttemptNumber, digest: MemoryDigest, body: Body) {
        self.session = session
        self.attempt = attempt
        self.digest = digest
        self.body = body
    }
}

/// Why a destination will not run an attempt.
public enum RefusalReason: UInt8, Hashable, Sendable, CaseIterable {
    /// The memory that arrived is not the memory that was sent.
    case digestMismatch = 1
    /// The state could not be restored.
    case stateNotRestored = 2
    /// A disk or another resource that the VM needs cannot be opened there.
    case resourceMissing = 3
    /// Somebody stopped the receiver.
    case cancelled = 4
}

/// Why a source took an attempt back.
public enum VoidReason: UInt8, Hashable, Sendable, CaseIterable {
    /// The attempt failed; a further one on this session may follow.
    case retry = 1
    /// The migration is over; the destination may forget what it has.
    case final = 2
    /// A person decided, in doubt, that the source runs the VM: the destination stays stopped and keeps its copy.
    case resolved = 3
}

/// Hexadecimal text of fixed width, without Foundation.
enum Hexadecimal {
    static func string(_ value: UInt64) -> String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 16 - digits.utf8.count) + digits
    }

    /// Exactly 16 lower-case digits; a sign, a space or an upper-case digit is refused.
    static func value(_ text: some StringProtocol) -> UInt64? {
        let isPlain = text.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
        return isPlain && text.utf8.count == 16 ? UInt64(text, radix: 16) : nil
    }
}
