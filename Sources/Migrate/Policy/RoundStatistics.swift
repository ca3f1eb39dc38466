/// What a round of pre-copy taught.

import Units

public struct RoundStatistics: Hashable, Sendable {
    /// 0 is the round that sends everything.
    public var index: Int
    /// Pages sent, zero pages and holes included.
    public var pagesSent: Int
    /// Of these, pages that needed no payload.
    public var zeroPages: Int
    /// Bytes on the wire.
    public var bytes: UInt64
    /// From the round's first page to the moment its residue was known.
    public var duration: Duration
    /// Distinct pages that the guest wrote meanwhile.
    public var pagesDirtied: Int
    /// Pages to be sent if the VM were stopped now.
    public var residuePages: Int
    /// How much the vCPUs were held back meanwhile, in percent.
    public var throttle: Int

    public init(
        index: Int, pagesSent: Int, zeroPages: Int = 0, bytes: UInt64, duration: Duration, pagesDirtied: Int,
        residuePages: Int, throttle: Int = 0
    ) {
        self.index = index
        self.pagesSent = pagesSent
        self.zeroPages = zeroPages
        self.bytes = bytes
        self.duration = duration
        self.pagesDirtied = pagesDirtied
        self.residuePages = residuePages
        self.throttle = throttle
    }

    /// Pages that carried a payload. What the guest writes is not zero, so only these say how fast a residue moves.
    var payloadPages: Int { max(0, pagesSent - zeroPages) }

    /// Guest bytes moved a second, pages without payload left out; `nil` when none was sent or no time passed.
    public var goodput: Double? {
        let seconds = duration.seconds
        return seconds > 0 && payloadPages > 0 ? Double(payloadPages) * Double(pageByteCount) / seconds : nil
    }

    /// Bytes of distinct pages dirtied a second.
    public var dirtyRate: Double {
        let seconds = duration.seconds
        return seconds > 0 ? Double(max(0, pagesDirtied)) * Double(pageByteCount) / seconds : 0
    }
}

/// How long the VM would stand still, and why.
public struct DowntimePrediction: Hashable, Sendable {
    /// Sending the residue at the measured goodput.
    public var memory: Duration
    /// All that does not depend on memory: pause, state, round trips, start. Measured or, at first, assumed.
    public var fixed: Duration

    public init(memory: Duration, fixed: Duration) {
        self.memory = memory
        self.fixed = fixed
    }

    public var total: Duration { memory + fixed }
}

extension Duration {
    var seconds: Double {
        let (seconds, attoseconds) = components
        return Double(seconds) + Double(attoseconds) * 1e-18
    }

    /// A duration that never traps: negative and absurd values are clamped (to a century).
    static func clamped(seconds: Double) -> Duration {
        guard seconds > 0 else { return .zero }
        return .seconds(min(seconds, 3.2e9))
    }
}
