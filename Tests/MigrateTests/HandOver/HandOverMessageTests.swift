import Migrate
import Testing

@Suite("Hand-over messages")
struct HandOverMessageTests {
    static let bodies: [HandOverMessage.Body] = [
        .final(.preCopy), .final(.postCopy), .ready, .refused(.digestMismatch), .refused(.stateNotRestored),
        .refused(.resourceMissing), .refused(.cancelled), .void(.retry), .void(.final), .void(.resolved), .voided,
        .commit, .running, .installed, .done, .lost(hasRun: false), .lost(hasRun: true), .alive,
    ]

    static func message(_ body: HandOverMessage.Body) -> HandOverMessage {
        HandOverMessage(
            session: SessionIdentifier(high: 0x0123_4567_89ab_cdef, low: 0xfedc_ba98_7654_3210),
            attempt: AttemptNumber(0x0a0b_0c0d), digest: MemoryDigest(0x1122_3344_5566_7788), body: body)
    }

    @Test("What is encoded is decoded again", arguments: bodies)
    func roundTrip(body: HandOverMessage.Body) throws {
        let message = Self.message(body)
        #expect(message.encoded.count == HandOverMessage.byteCount)
        #expect(try HandOverMessage(decoding: message.encoded) == message)
    }

    /// The bytes are a promise between versions.
    @Test func bytesOfCommit() {
        #expect(
            Self.message(.commit).encoded == [
                0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01,
                0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x0d, 0x0c, 0x0b, 0x0a, 1, 6, 0, 0,
            ])
    }

    /// Whatever the last four bytes are: the message is either refused or encodes to the same bytes again.
    @Test func noTwoEncodings() throws {
        var bytes = Self.message(.ready).encoded
        var accepted = 0
        for version in UInt8.min...3 {
            for kind in UInt8.min...UInt8.max {
                for argument in UInt8.min...UInt8.max {
                    bytes[28] = version
                    bytes[29] = kind
                    bytes[30] = argument
                    guard let message = try? HandOverMessage(decoding: bytes) else { continue }
                    accepted += 1
                    #expect(message.encoded == bytes)
                }
            }
        }
        #expect(accepted == Self.bodies.count)
        bytes = Self.message(.ready).encoded
        bytes[31] = 1
        #expect(throws: HandOverMessageError.badArgument(kind: 2, argument: 0)) {
            try HandOverMessage(decoding: bytes)
        }
        for count in [0, 1, 31, 33, 4096] {
            #expect(throws: HandOverMessageError.wrongLength(count)) {
                try HandOverMessage(decoding: [UInt8](repeating: 0, count: count))
            }
        }
    }

    @Test func sessionText() {
        let session = Self.message(.alive).session
        #expect(session.description == "0123456789abcdeffedcba9876543210")
        #expect(SessionIdentifier(session.description) == session)
        for text in ["", "0123", "0123456789ABCDEFfedcba9876543210", "+123456789abcdeffedcba9876543210", "../../x"] {
            #expect(SessionIdentifier(text) == nil)
        }
        #expect(SessionIdentifier.random() != SessionIdentifier.random())
    }
}
