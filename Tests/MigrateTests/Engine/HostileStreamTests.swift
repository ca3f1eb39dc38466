/// Damage on the way: whatever happens to the bytes between source and destination, the VM runs on one side, whole.

import Glibc
import Migrate
import Synchronization
import Testing

extension HostileTests {
    @Suite(.serialized) struct HostileStreamTests {
        /// Bytes and records that each flow of an undisturbed migration has.
        private struct Sizes: Sendable {
            var bytes: [Flow: Int] = [:]
            var records: [Flow: Int] = [:]
        }

        private static func measure(lanes: Int) throws -> Sizes {
            let sizes = Mutex(Sizes())
            let ending = try Hostile.move(lanes: lanes, machine: Hostile.source(mebibytes: 3, share: 0.03)) { flow in
                RecordMangler { _, _, piece in
                    sizes.withLock {
                        $0.bytes[flow, default: 0] += piece.count
                        $0.records[flow, default: 0] += 1
                    }
                    return .pass(piece)
                }
            }
            Hostile.verify(ending, "undisturbed")
            check(ending.report.outcome == .completed, "\(ending.report.error ?? "")")
            return sizes.withLock { $0 }
        }

        @Test(.timeLimit(.minutes(5))) func aFlippedBitIsRefusedOrWithoutEffect() async throws {
            try await hostile {
                let sizes = try Self.measure(lanes: 2)
                var generator = Xorshift(seed: 4711)
                for flow in sizes.bytes.keys.sorted(by: { "\($0)" < "\($1)" }) {
                    let length = sizes.bytes[flow] ?? 1
                    for _ in 0..<(flow.connection == 0 ? 10 : 6) {
                        let place = Int(generator.next() % UInt64(length))
                        let bit = Int(generator.next() % 8)
                        let ending = try Hostile.move(lanes: 2, machine: Hostile.source(mebibytes: 3, share: 0.03)) {
                            $0 == flow ? ByteMangler.flip(bit: bit, at: place) : nil
                        }
                        Hostile.verify(ending, "bit \(bit) of byte \(place) of \(flow)")
                    }
                }
            }
        }

        @Test(.timeLimit(.minutes(5))) func aStreamCutAnywhereLeavesOneMachine() async throws {
            try await hostile {
                let sizes = try Self.measure(lanes: 1)
                var generator = Xorshift(seed: 99)
                for flow in sizes.records.keys.sorted(by: { "\($0)" < "\($1)" }) {
                    let count = sizes.records[flow] ?? 1
                    // Lanes have many records of the same kind.
                    for number in 0...count where count < 20 || number < 4 || number > count - 4 || number % 16 == 0 {
                        let ending = try Hostile.move(lanes: 1, machine: Hostile.source(mebibytes: 3, share: 0.03)) {
                            $0 == flow ? RecordMangler.end(before: number) : nil
                        }
                        Hostile.verify(ending, "cut before piece \(number) of \(flow)")
                    }
                    for _ in 0..<4 {
                        let place = Int(generator.next() % UInt64(sizes.bytes[flow] ?? 1))
                        let ending = try Hostile.move(lanes: 1, machine: Hostile.source(mebibytes: 3, share: 0.03)) {
                            $0 == flow ? ByteMangler.end(at: place) : nil
                        }
                        Hostile.verify(ending, "cut at byte \(place) of \(flow)")
                    }
                }
            }
        }

        /// A peer that is stopped, not dead: its sockets stay open, and nobody reads them.
        @Test(.timeLimit(.minutes(5))) func aFrozenPeerIsNoticed() async throws {
            try await hostile {
                let sizes = try Self.measure(lanes: 1)
                for (flow, numbers) in [
                    (Flow(connection: 0, direction: .toDestination), [1, 3, 5, 6, 7]),
                    // Not before WELCOME: a destination may take a minute to build its VM.
                    (Flow(connection: 0, direction: .toSource), [2, 3]),
                    (Flow(connection: 1, direction: .toDestination), [1, 2, 10]),
                    (Flow(connection: 1, direction: .toSource), [1, 2]),
                ] {
                    for number in numbers where number < sizes.records[flow] ?? 0 {
                        // A stopped peer is silent in both directions of all connections from then on.
                        let isFrozen = Atomic<Bool>(false)
                        let begun = MonotonicInstant.now
                        let ending = try Hostile.move(lanes: 1, machine: Hostile.source(mebibytes: 3, share: 0.03)) {
                            here in
                            guard here.connection < 2 else { return nil }
                            return RecordMangler { _, at, piece in
                                if here == flow, at >= number { isFrozen.store(true, ordering: .relaxed) }
                                return isFrozen.load(ordering: .relaxed) ? .freeze([]) : .pass(piece)
                            }
                        }
                        let seconds = (MonotonicInstant.now - begun).inSeconds
                        Hostile.verify(ending, "frozen before piece \(number) of \(flow)")
                        check(seconds < 30, "frozen before piece \(number) of \(flow): took \(seconds) s")
                    }
                }
            }
        }

        /// A destination that says that it lives, and takes nothing more on a lane, or does not answer there.
        @Test(.timeLimit(.minutes(2)), arguments: [Flow.Direction.toDestination, .toSource])
        func aStuckLaneIsNoticed(_ direction: Flow.Direction) async throws {
            try await hostile {
                let ending = try Hostile.move(lanes: 2, machine: Hostile.source(mebibytes: 24, share: 0.9)) { here in
                    guard here.connection == 1, here.direction == direction else { return nil }
                    // Behind the lane's opening.
                    return ByteMangler.end(at: direction == .toSource ? 100 : 500_000, freezes: true)
                }
                Hostile.verify(ending, "stuck")
                check(ending.report.outcome == .peerLost, "\(ending.report.outcome) \(ending.report.error ?? "")")
            }
        }

        @Test(.timeLimit(.minutes(2))) func oneByteAtATimeIsSlowButRight() async throws {
            try await hostile {
                let ending = try Hostile.move(lanes: 1, machine: Hostile.source(mebibytes: 2, share: 0)) { _ in
                    DrippingMangler()
                }
                Hostile.verify(ending, "dripping")
                check(ending.report.outcome == .completed, "\(ending.report.error ?? "")")
            }
        }

        @Test(.timeLimit(.minutes(2))) func lostRepeatedAndSwappedRecordsAreRefused() async throws {
            try await hostile {
                for (name, change) in Self.reorderings {
                    for connection in [0, 1] {
                        let ending = try Hostile.move(lanes: 1, machine: Hostile.source(mebibytes: 3, share: 0.03)) {
                            flow in
                            guard flow == Flow(connection: connection, direction: .toDestination) else { return nil }
                            return RecordMangler { _, number, piece in change(number, piece) }
                        }
                        Hostile.verify(ending, "\(name), connection \(connection)")
                    }
                }
            }
        }

        private static let reorderings: [(String, @Sendable (Int, [UInt8]) -> Fate)] = [
            ("a record lost", { number, piece in .pass(number == 3 ? [] : piece) }),
            ("a record repeated", { number, piece in .pass(number == 3 ? piece + piece : piece) }),
            ("the header repeated", { number, piece in .pass(number == 0 ? piece + piece : piece) }),
            ("bytes in between", { number, piece in .pass(number == 3 ? [1, 2, 3] + piece : piece) }),
            ("zeros for a record", { number, piece in .pass(number == 3 ? piece.map { _ in 0 } : piece) }),
        ]
    }
}
