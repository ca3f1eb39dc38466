/// Damage that a test plants, and what finds it.

import CKVM
import Glibc
import KVM
import Machine
import Migrate
import Testing
import Units
import VMState

@Suite(.enabled(if: hasKVM, noKVM), .serialized)
struct FaultTests {
    /// One flipped bit in one of the guest's pages: the guest finds it, says what it expected and found, and fails.
    @Test(arguments: [16, 24, 2048, 4095])
    func theGuestFindsAFlippedBit(_ offset: Int) throws {
        let machine = try Machine.selftest("rate=0 fill=4096")
        _ = try machine.resume()
        #expect(machine.waitForSerial("event=ready"), "\(machine.serialText)")
        #expect(!machine.serialText.contains("event=bad"))
        _ = try machine.pause()
        // The guest owns memory from 4 MiB on here (its event=ready line says so).
        let address = GuestAddress((32 << 20) + UInt64(offset))
        let byte = try machine.readMemory(at: address, byteCount: 1)[0]
        try machine.writeMemory([byte ^ 0x10], at: address)
        _ = try machine.resume()
        #expect(machine.sendSerialInput(Array("v".utf8)) == 1)
        #expect(machine.waitForSerial("gpa=0x2000000 kind=corrupt"), "\(machine.serialText)")
        #expect(machine.sendSerialInput(Array("q".utf8)) == 1)
        #expect(machine.waitForOutcome(timeout: .seconds(30)) == .exited(code: 1))
        #expect(machine.serialText.contains("verdict=fail"))
    }

    /// A page that a move forgot: the guest at the destination finds it too.
    @Test func theGuestFindsALostPage() throws {
        let source = try Machine.selftest("rate=0")
        _ = try source.resume()
        #expect(source.waitForSerial("event=ready"), "\(source.serialText)")
        _ = try source.pause()
        let state = try source.captureState()
        let target = try LocalMachineBuilder().makeLocalMachine(for: source.configuration)
        for (from, to) in zip(source.memory, target.memory) { memcpy(to.base, from.base, from.byteCount) }
        memset(target.memory[0].base + (40 << 20), 0, pageByteCount)
        try target.restoreState(state)
        _ = try target.resume()
        #expect(target.sendSerialInput(Array("q".utf8)) == 1)
        #expect(target.waitForOutcome(timeout: .seconds(30)) == .exited(code: 1))
        #expect(target.serialText.contains("gpa=0x2800000 kind=zero"), "\(target.serialText)")
    }

    /// State with sections missing, doubled, unknown or damaged is refused before anything is restored, and never traps.
    @Test func damagedStateIsRefused() throws {
        let source = try Machine.selftest("rate=10", vcpus: 2)
        _ = try source.resume()
        #expect(source.waitForSerial("event=ready"), "\(source.serialText)")
        _ = try source.pause()
        let state = try source.captureState()
        let target = try LocalMachineBuilder().makeLocalMachine(for: source.configuration)
        for index in state.indices {
            var missing = state
            missing.remove(at: index)
            #expect { try target.restoreState(missing) } throws: { "\($0)".contains(state[index].name) }
            var doubled = state
            doubled.append(state[index])
            #expect { try target.restoreState(doubled) } throws: { "\($0)".contains("twice") }
            var future = state
            future[index].version = 99
            #expect { try target.restoreState(future) } throws: { "\($0)".contains("99") }
            var cut = state
            cut[index].bytes.removeLast(min(3, cut[index].bytes.count))
            _ = try? target.restoreState(cut)
        }
        #expect { try target.restoreState(state + [StateSection(name: "gpu.0", version: 1, bytes: [])]) } throws: {
            "\($0)".contains("gpu.0")
        }
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<300 {
            var damaged = state
            let index = Int.random(in: damaged.indices, using: &generator)
            guard !damaged[index].bytes.isEmpty else { continue }
            for _ in 0..<Int.random(in: 1...8, using: &generator) {
                let place = Int.random(in: damaged[index].bytes.indices, using: &generator)
                damaged[index].bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
            }
            _ = try? target.restoreState(damaged)
        }
    }
}
