/// The words that both state machines share: timers, failures, doubts, and what a person may decide.

/// Timers that the machines start, restart (by starting again) and cancel. A timer that fires after it was cancelled
/// is harmless.
public enum HandOverTimer: Hashable, Sendable, CaseIterable {
    /// Source: READY must have come.
    case ready
    /// Both: nothing was heard from the peer for too long. It is what notices a killed or frozen peer.
    case silence
    /// Both: time to say that we are still there.
    case heartbeat
    /// Both: the link has been down so long that the peer's own silence timer has fired as well, whatever it still
    /// had unread. Until then nobody may decide in doubt.
    case doubt
    /// Both: nobody came back; give up waiting where nothing can be lost by it.
    case abandon
    /// Both: try again to lock the disks.
    case retry
}

/// How long each timer runs. The defaults notice a dead peer in 3 s and allow a decision after 8 s.
public struct HandOverTimeouts: Hashable, Sendable {
    public var heartbeat: Duration
    public var silence: Duration
    /// Must exceed the peer's `silence` by a margin for clocks and scheduling; `init` sees to it.
    public var doubt: Duration
    public var abandon: Duration
    public var retry: Duration

    public init(
        heartbeat: Duration = .milliseconds(500), silence: Duration = .seconds(3), doubt: Duration = .seconds(8),
        abandon: Duration = .seconds(10), retry: Duration = .seconds(1)
    ) {
        self.heartbeat = heartbeat
        self.silence = silence
        self.doubt = max(doubt, silence * 2)
        self.abandon = abandon
        self.retry = retry
    }
}

/// Why an attempt to hand over failed. The VM goes on at the source.
public enum AttemptFailure: Hashable, Sendable {
    case readyDeadline
    case linkLost
    case refused(RefusalReason)
    case digestMismatch
    case pauseFailed
    case lastPagesFailed
    case releaseFailed
    case recordFailed
    case cancelled
}

/// Why a side stands still and cannot go on by itself.
public enum HandOverDoubt: Hashable, Sendable {
    /// Source: COMMIT was said, RUNNING was not heard, the destination is silent.
    case committedAndSilent
    /// Source: COMMIT was said, and the destination's process has died since. It may have run for an instant.
    case destinationLost
    /// Source: COMMIT was said; the VM ran at the destination and died there.
    case destinationRanAndDied
    /// Destination: READY was said, neither COMMIT nor VOID was heard, the source is silent.
    case readyAndSilent
    /// The VM was started here by a person's word that the other side is dead, and the other side runs it.
    case split
    /// Destination: COMMIT was heard, and the VM could not be started.
    case startFailed
    /// The disks could not be locked, so the VM does not run; it is tried again and again.
    case disksNotLocked
}

/// What a person decides in doubt (`migratectl resolve`). Each needs the explicit word on what the other side does.
public enum HandOverResolution: Hashable, Sendable {
    /// The other side is dead and will not run the VM: run it here.
    case runHere(otherSideIsDead: Bool)
    /// The other side has the VM, or nobody wants it any more: drop this copy.
    case dropHere(copyMayBeLost: Bool)
}

/// Why a wish was not granted.
public enum HandOverObjection: Hashable, Sendable {
    /// COMMIT was said: the VM belongs to the destination.
    case alreadyCommitted
    /// READY was said: COMMIT may be on its way.
    case alreadyReady
    /// There is nothing to decide: the protocol goes on by itself.
    case noDoubt
    /// The word about the other side is missing.
    case wordMissing
    /// The other side is said to be dead, and is linked to this one.
    case otherSideAnswers
    /// This side has no copy of the VM.
    case noCopy
    /// The decision could not be written to the ledger, so it was not taken.
    case notRecorded
    /// The destination has not acknowledged the last VOID yet, or the link is down.
    case notNow
    /// All attempt numbers of this session are used up.
    case attemptsUsedUp
    /// The session is over.
    case sessionOver
}

/// Why a link is given up.
public enum LinkFault: Hashable, Sendable {
    case silent
}

/// Why a message had no effect. For the log; a crossing or repeated message is normal.
public enum IgnoredMessage: Hashable, Sendable {
    case wrongSession
    case wrongAttempt(AttemptNumber)
    case wrongDigest(MemoryDigest)
    case notExpected
}

/// How a session ended for this side.
public enum HandOverOutcome: Hashable, Sendable {
    /// Source: the VM runs at the destination, and this copy is freed. Destination: it runs here and the source knows.
    case handedOver
    /// Source: the VM runs here, and the destination knows (or cannot have had a complete copy).
    case stayed
    /// Source: the VM runs here, but the destination could not be told yet; if it is alive it waits, stopped. The
    /// source goes on trying to reach it.
    case stayedUntold
    /// Destination: the copy was discarded, since the source has the VM.
    case discarded
    /// A person decided that the VM runs here.
    case resolvedHere
    /// A person dropped the copy here.
    case droppedHere
}

/// How many answers to slow actions are still to come. An action may be asked for again while an earlier one is under
/// way (a person decides, the peer objects, the person decides again); drivers work in order, so the last answer is
/// the one that counts.
struct PendingAnswers: Hashable, Sendable {
    var pauses: UInt8 = 0
    var locks: UInt8 = 0
    var records: UInt8 = 0
    var starts: UInt8 = 0

    /// Counts an answer; true when no further one is to come.
    static func take(_ count: inout UInt8) -> Bool {
        guard count > 0 else { return false }
        count -= 1
        return count == 0
    }
}
