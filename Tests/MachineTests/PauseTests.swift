/// Stopping, starting, and what a stopped machine is.

import CKVM
import Glibc
import KVM
import Machine
import Migrate
import Testing
import Units

@Suite(.enabled(if: hasKVM, noKVM), .serialized)
struct PauseTests {
    /// A pause ends when the last vCPU is out; nothing of memory changes afterwards, until the machine goes on.
    @Test(arguments: [1, 2])
    func nothingRunsWhilePaused(_ vcpus: Int) throws {
        let machine = try Machine.selftest("rate=50", vcpus: vcpus)
        _ = try machine.resume()
        #expect(machine.waitForSerial("event=ready"), "\(machine.serialText)")
        for _ in 0..<10 {
            _ = try machine.pause()
            let before = digest(of: machine)
            usleep(20_000)
            #expect(digest(of: machine) == before)
            _ = try machine.resume()
            usleep(10_000)
        }
        let end = digest(of: machine)
        #expect(eventually(seconds: 5) { digest(of: machine) != end }, "the guest does not go on")
        machine.stop()
        #expect(machine.outcome == .stopped)
        #expect(throws: MachineError.self) { try machine.resume() }
    }

    /// How long pause and resume take, as the median of many; one bad run on a busy host says nothing.
    @Test(arguments: [1, 2])
    func pauseTakesLessThanAMillisecond(_ vcpus: Int) throws {
        let machine = try Machine.selftest("rate=20", vcpus: vcpus)
        _ = try machine.resume()
        #expect(machine.waitForSerial("event=ready"), "\(machine.serialText)")
        var pauses: [UInt64] = []
        var resumes: [UInt64] = []
        for _ in 0..<101 {
            usleep(3000)
            let start = ckvm_monotonic_nanoseconds()
            let left = try machine.pause()
            pauses.append(ckvm_monotonic_nanoseconds() - start)
            #expect(left >= start - 60_000_000_000 && left <= ckvm_monotonic_nanoseconds())
            let again = ckvm_monotonic_nanoseconds()
            let entered = try machine.resume()
            resumes.append(ckvm_monotonic_nanoseconds() - again)
            #expect(entered >= again && entered <= ckvm_monotonic_nanoseconds())
        }
        func median(_ values: [UInt64]) -> UInt64 { values.sorted()[values.count / 2] }
        print(
            "\(vcpus) vCPUs: pause \(median(pauses) / 1000) us (longest \((pauses.max() ?? 0) / 1000)), "
                + "resume \(median(resumes) / 1000) us (longest \((resumes.max() ?? 0) / 1000))")
        #expect(median(pauses) < 1_000_000)
        #expect(median(resumes) < 1_000_000)
    }

    /// Guests that never leave by themselves: an endless loop, and a halt with interrupts off.
    @Test(arguments: [[0xEB, 0xFE], [0xFA, 0xF4]] as [[UInt8]])
    func stubbornGuestsStop(_ code: [UInt8]) throws {
        let machine = try Machine.tiny(code, vcpus: 2)
        for _ in 0..<20 {
            _ = try machine.resume()
            usleep(1000)
            _ = try machine.pause()
        }
        _ = try machine.resume()
        machine.stop()
    }

    /// The wrong call at the wrong moment is an error and changes nothing.
    @Test func wrongMomentsAreRefused() throws {
        let machine = try Machine.selftest("rate=1")
        #expect(throws: MachineError.self) { try machine.pause() }
        _ = try machine.captureState()
        _ = try machine.resume()
        #expect(throws: MachineError.self) { try machine.resume() }
        #expect(throws: MachineError.self) { try machine.captureState() }
        #expect(throws: MachineError.self) { try machine.restoreState([]) }
        _ = try machine.pause()
        #expect(throws: MachineError.self) { try machine.pause() }
        #expect(throws: MachineError.self) { try machine.restoreState([]) }
        machine.stop()
        machine.stop()
        #expect(throws: MachineError.self) { try machine.pause() }
    }

    /// Pausing from one thread while others stop, look and type: no deadlock, no crash.
    @Test func manyHandsAtOnce() throws {
        let machine = try Machine.selftest("rate=20", vcpus: 2)
        _ = try machine.resume()
        let hands = (0..<3).map { number in
            TestThread {
                for _ in 0..<50 {
                    switch number {
                    case 0:
                        _ = try? machine.pause()
                        _ = try? machine.resume()
                    case 1: _ = machine.sendSerialInput([0x3F])
                    default: _ = machine.serialHistory
                    }
                    usleep(1000)
                }
            }
        }
        for hand in hands { hand.join() }
        machine.stop()
        #expect(machine.outcome == .stopped)
    }

    private func digest(of machine: Machine) -> UInt64 {
        var sum: UInt64 = 0
        for region in machine.memory {
            let words = UnsafeRawBufferPointer(start: region.base, count: region.byteCount).bindMemory(to: UInt64.self)
            var index = 0
            // One word in eight is enough to see a guest that works, and debug builds are slow.
            while index < words.count {
                sum = (sum << 1 | sum >> 63) &+ words[index]
                index += 8
            }
        }
        return sum
    }
}
