/// HELLO and WELCOME: what the two sides agree on before anything moves.

/// The source's opening word.
public struct Hello: Equatable, Sendable {
    public var session: SessionIdentifier
    public var lanes: UInt16
    /// What else the destination must be able to do. Zero in pre-copy.
    public var needs: Needs
    public var program: String

    /// Where version 1 first had a reserved field: who does not know a bit refuses it.
    public struct Needs: OptionSet, Sendable {
        public var rawValue: UInt16
        public init(rawValue: UInt16) { self.rawValue = rawValue }
        /// Pages may follow after the VM runs there.
        public static let paging = Needs(rawValue: 1)
        /// No page comes before that.
        public static let nothingBefore = Needs(rawValue: 2)
        static let known: Needs = [.paging, .nothingBefore]
    }

    func encode(into encoder: inout PayloadEncoder) {
        encoder.put(session)
        encoder.put(lanes)
        encoder.put(needs.rawValue)
        encoder.put(string: program)
    }

    package init(session: SessionIdentifier, lanes: UInt16, needs: Needs = [], program: String) {
        self.session = session
        self.lanes = lanes
        self.needs = needs
        self.program = program
    }

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        session = try decoder.session()
        lanes = try decoder.uint16()
        guard 1...StreamFormat.laneLimit ~= Int(lanes) else {
            throw decoder.error(.invalid, "\(lanes) lanes, where 1 to \(StreamFormat.laneLimit) are possible")
        }
        needs = Needs(rawValue: try decoder.uint16())
        guard needs.isSubset(of: .known), needs.contains(.paging) || needs.isEmpty else {
            throw decoder.error(
                .invalid, "the source needs 0x\(String(needs.rawValue, radix: 16)), unknown to this program")
        }
        program = try decoder.string(limit: 256)
    }
}

/// The destination's answer to a machine that it can run.
public struct Welcome: Equatable, Sendable {
    public var session: SessionIdentifier
    /// What each lane proves itself with.
    public var laneSecret: [UInt8]
    public var lanes: UInt16
    public var program: String

    func encode(into encoder: inout PayloadEncoder) {
        encoder.put(session)
        encoder.put(raw: laneSecret)
        encoder.put(lanes)
        encoder.put(UInt16(0))
        encoder.put(string: program)
    }

    package init(session: SessionIdentifier, laneSecret: [UInt8], lanes: UInt16, program: String) {
        self.session = session
        self.laneSecret = laneSecret
        self.lanes = lanes
        self.program = program
    }

    init(from decoder: inout PayloadDecoder) throws(StreamError) {
        session = try decoder.session()
        laneSecret = try decoder.raw(32)
        lanes = try decoder.uint16()
        guard 1...StreamFormat.laneLimit ~= Int(lanes) else {
            throw decoder.error(.invalid, "\(lanes) lanes granted, where 1 to \(StreamFormat.laneLimit) are possible")
        }
        try decoder.reserved16()
        program = try decoder.string(limit: 256)
    }
}
