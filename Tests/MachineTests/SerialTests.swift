/// The serial line, seen from guests: polled, by interrupt, and across a move.

import CKVM
import Glibc
import KVM
import Machine
import Migrate
import Synchronization
import Testing
import Units

/// Polls the line status and sends back what it receives; '!' ends it.
///
///     1: mov dx, 0x3fd; in al, dx; test al, 1; jz 1b; mov dx, 0x3f8; in al, dx; out dx, al
///        cmp al, '!'; jne 1b; mov dx, 0x501; mov al, 0; out dx, al; 2: hlt; jmp 2b
private let pollingEcho: [UInt8] = [
    0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0x3c, 0x21, 0x75, 0xed,
    0x66, 0xba, 0x01, 0x05, 0xb0, 0x00, 0xee, 0xf4, 0xeb, 0xfd,
]

/// The same by interrupt: sets up GDT, IDT, both PICs (base 0x20, only IRQ 4 open) and the UART (FIFO on, receive
/// interrupt), then halts. The handler of vector 0x24 echoes as long as the cause register says "data", sends the end of
/// interrupt, and jumps back to the halt with a fresh stack: IRET outside of long mode is not emulated by kvm_pvm.
private let interruptEcho: [UInt8] = [
    0x0f, 0x01, 0x15, 0xd0, 0x00, 0x20, 0x00, 0xea, 0x0e, 0x00, 0x20, 0x00, 0x08, 0x00, 0x66, 0xb8, 0x10, 0x00,
    0x8e, 0xd0, 0x8e, 0xd8, 0xbc, 0x00, 0x00, 0x28, 0x00, 0xb8, 0x91, 0x00, 0x20, 0x00, 0xbf, 0x00, 0x10, 0x28,
    0x00, 0x66, 0x89, 0x87, 0x20, 0x01, 0x00, 0x00, 0xc1, 0xe8, 0x10, 0x66, 0x89, 0x87, 0x26, 0x01, 0x00, 0x00,
    0x66, 0xc7, 0x87, 0x22, 0x01, 0x00, 0x00, 0x08, 0x00, 0x66, 0xc7, 0x87, 0x24, 0x01, 0x00, 0x00, 0x00, 0x8e,
    0x0f, 0x01, 0x1d, 0xd6, 0x00, 0x20, 0x00, 0xb0, 0x11, 0xe6, 0x20, 0xe6, 0xa0, 0xb0, 0x20, 0xe6, 0x21, 0xb0,
    0x28, 0xe6, 0xa1, 0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x02, 0xe6, 0xa1, 0xb0, 0x01, 0xe6, 0x21, 0xe6, 0xa1, 0xb0,
    0xef, 0xe6, 0x21, 0xb0, 0xff, 0xe6, 0xa1, 0x66, 0xba, 0xfa, 0x03, 0xb0, 0x01, 0xee, 0x66, 0xba, 0xfc, 0x03,
    0xb0, 0x08, 0xee, 0x66, 0xba, 0xf9, 0x03, 0xb0, 0x01, 0xee, 0xbc, 0x00, 0x00, 0x28, 0x00, 0xfb, 0xf4, 0xeb,
    0xfc, 0x66, 0xba, 0xfa, 0x03, 0xec, 0x24, 0x0f, 0x3c, 0x04, 0x75, 0x11, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee,
    0x3c, 0x21, 0x75, 0xeb, 0x66, 0xba, 0x01, 0x05, 0xb0, 0x00, 0xee, 0xb0, 0x20, 0xe6, 0x20, 0xeb, 0xd5, 0x0f,
    0x1f, 0x44, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x9b,
    0xcf, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x93, 0xcf, 0x00, 0x17, 0x00, 0xb8, 0x00, 0x20, 0x00, 0xff, 0x07,
    0x00, 0x10, 0x28, 0x00,
]

@Suite(.enabled(if: hasKVM, noKVM), .serialized)
struct SerialTests {
    /// Bytes that are not '!'.
    private func text(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(0x30 + $0 % 64) } }

    /// Types all of it, as fast as it is taken.
    private func type(_ bytes: [UInt8], into machine: Machine) {
        var rest = bytes[...]
        #expect(
            eventually(seconds: 30) {
                rest = rest.dropFirst(machine.sendSerialInput(Array(rest)))
                return rest.isEmpty
            })
    }

    @Test(arguments: [pollingEcho, interruptEcho])
    func echoesEverythingInOrder(_ code: [UInt8]) throws {
        let received = Mutex<[UInt8]>([])
        let host = HostOptions(serialSink: { bytes in received.withLock { $0 += bytes } })
        let machine = try Machine.tiny(code, host: host)
        _ = try machine.resume()
        let sent = text(3000) + [0x21]
        type(sent, into: machine)
        #expect(machine.waitForOutcome(timeout: .seconds(60)) == .exited(code: 0))
        machine.stop()
        #expect(received.withLock { $0 } == sent)
        #expect(machine.serialHistory.bytes == sent)
        #expect(machine.serialHistory.skipped == 0)
    }

    /// Machines move in the middle of it, with input waiting in the FIFO and behind it: nothing is lost or doubled.
    @Test(arguments: [pollingEcho, interruptEcho])
    func movesInTheMiddle(_ code: [UInt8]) throws {
        var machine = try Machine.tiny(code)
        var received: [UInt8] = []
        let sent = text(2000) + [0x21]
        _ = try machine.resume()
        type(Array(sent.prefix(1000)), into: machine)
        for _ in 0..<5 {
            let source = machine
            machine = try move(source, rounds: 1)
            received += source.serialHistory.bytes
        }
        type(Array(sent.dropFirst(1000)), into: machine)
        #expect(machine.waitForOutcome(timeout: .seconds(60)) == .exited(code: 0))
        received += machine.serialHistory.bytes
        #expect(received == sent)
    }

    /// A sink that never comes back does not hold the guest up, nor does the history grow without bound.
    @Test func aSlowReaderHoldsNobodyUp() throws {
        // mov dx, 0x3f8; mov ecx, 20000; mov al, 'x'; 1: out dx, al; loop 1b; mov al, 0; mov dx, 0x501; out; hlt
        let code: [UInt8] = [
            0x66, 0xba, 0xf8, 0x03, 0xb9, 0x20, 0x4e, 0x00, 0x00, 0xb0, 0x78, 0xee, 0xe2, 0xfd, 0xb0, 0x00, 0x66, 0xba,
            0x01, 0x05, 0xee, 0xf4, 0xeb, 0xfd,
        ]
        let release = Atomic<Bool>(false)
        let host = HostOptions(
            serialSink: { _ in while !release.load(ordering: .acquiring) { usleep(1000) } },
            serialHistoryByteCount: 4096)
        let machine = try Machine.tiny(code, host: host)
        _ = try machine.resume()
        #expect(machine.waitForOutcome(timeout: .seconds(60)) == .exited(code: 0))
        #expect(machine.serialHistory.bytes.count == 4096)
        #expect(machine.serialHistory.skipped == 20000 - 4096)
        release.store(true, ordering: .releasing)
        machine.stop()
    }

    /// Stopping does not wait for a reader that is gone for good.
    @Test func aDeadReaderDoesNotKeepTheMachine() throws {
        let release = Atomic<Bool>(false)
        let host = HostOptions(serialSink: { _ in while !release.load(ordering: .acquiring) { usleep(1000) } })
        let machine = try Machine.selftest("seconds=1", host: host)
        _ = try machine.resume()
        #expect(machine.waitForOutcome(timeout: .seconds(60)) == .exited(code: 0))
        let start = ckvm_monotonic_nanoseconds()
        machine.stop()
        #expect(ckvm_monotonic_nanoseconds() - start < 10_000_000_000)
        release.store(true, ordering: .releasing)
    }

    /// More input than there is room for is refused, not dropped.
    @Test func inputIsBounded() throws {
        let machine = try Machine.tiny([0xF4, 0xEB, 0xFD])
        let taken = machine.sendSerialInput(Array(repeating: 1, count: 1 << 20))
        #expect(taken > 0 && taken < 1 << 20)
        #expect(machine.sendSerialInput(Array(repeating: 1, count: 1 << 20)) <= 16)
        _ = try machine.resume()
        _ = try machine.pause()
        _ = try machine.captureState()
    }
}
