/// The machine boots its guests, on every kind of memory, and says how they ended.

import CKVM
import Glibc
import KVM
import Machine
import Migrate
import Testing
import Units

@Suite(.enabled(if: hasKVM, noKVM))
struct BootTests {
    @Test(arguments: [MemoryBacking.anonymous, .memfd], [1, 2])
    func selftestPasses(_ backing: MemoryBacking, _ vcpus: Int) throws {
        let machine = try Machine.selftest(
            "seconds=1 rate=20", vcpus: vcpus, host: HostOptions(memoryBacking: backing))
        _ = try machine.resume()
        #expect(machine.waitForOutcome(timeout: .seconds(60)) == .exited(code: 0), "\(machine.serialText)")
        #expect(machine.serialText.contains("verdict=pass"))
        #expect(machine.serialText.contains("cpus=\(vcpus) "))
    }

    /// Needs reserved huge pages: `echo 40 > /proc/sys/vm/nr_hugepages`.
    @Test(.enabled(if: freeHugePageCount() >= 32, "fewer than 32 free huge pages: see /proc/sys/vm/nr_hugepages"))
    func selftestPassesOnHugePages() throws {
        let machine = try Machine.selftest("seconds=1 rate=20", host: HostOptions(memoryBacking: .hugetlb))
        _ = try machine.resume()
        #expect(machine.waitForOutcome(timeout: .seconds(60)) == .exited(code: 0), "\(machine.serialText)")
    }

    /// RAM above the hole below 4 GiB is a slot of its own. 3.25 GiB, of which the guest touches little.
    @Test func memoryAboveTheHole() throws {
        let machine = try Machine.selftest("seconds=1 rate=5 init=64", memory: 3328 << 20)
        #expect(machine.memory.map(\.guestAddress) == [GuestAddress(0), GuestAddress(4 << 30)])
        #expect(machine.memory.map(\.byteCount) == [3 << 30, 256 << 20])
        _ = try machine.resume()
        #expect(machine.waitForOutcome(timeout: .seconds(60)) == .exited(code: 0), "\(machine.serialText)")
        try machine.writeMemory([1, 2, 3], at: GuestAddress((4 << 30) + 4095))
        #expect(try machine.readMemory(at: GuestAddress((4 << 30) + 4095), byteCount: 3) == [1, 2, 3])
        #expect(throws: MachineError.self) { try machine.writeMemory([1, 2], at: GuestAddress((3 << 30) - 1)) }
        #expect(throws: MachineError.self) { try machine.readMemory(at: GuestAddress(.max), byteCount: 2) }
    }

    /// What is reported as never populated reads as zeros, and what the guest wrote is reported.
    @Test(arguments: [MemoryBacking.anonymous, .memfd])
    func populationIsHonest(_ backing: MemoryBacking) throws {
        let machine = try Machine.selftest("rate=20 init=16", host: HostOptions(memoryBacking: backing))
        _ = try machine.resume()
        #expect(machine.waitForSerial("event=ready"), "\(machine.serialText)")
        _ = try machine.pause()
        let region = machine.memory[0]
        var words = [UInt64](repeating: 0, count: (region.pageCount + 63) / 64)
        try words.withUnsafeMutableBufferPointer {
            try machine.readPopulation(region: 0, firstPage: PageIndex(0), words: $0)
        }
        var populated = 0
        let zero = [UInt8](repeating: 0, count: pageByteCount)
        for page in 0..<region.pageCount {
            if words[page / 64] >> UInt64(page % 64) & 1 == 1 {
                populated += 1
            } else {
                #expect(memcmp(region.base + page * pageByteCount, zero, pageByteCount) == 0, "page \(page)")
            }
        }
        #expect(populated >= 16 << 8 && populated < region.pageCount, "\(populated) of \(region.pageCount)")
    }

    @Test func badOptionsAreRefused() throws {
        func refused(_ options: MachineOptions) -> Bool {
            do {
                _ = try Machine(options)
                return false
            } catch {
                return (error as? MachineError)?.code == .invalidOptions
            }
        }
        let good = MachineOptions(name: "a", memory: ByteCount(rawValue: 64 << 20), guest: .selftest(commandLine: ""))
        for name in ["", "../x", "a/b", ".hidden", "-dash", "name with blank", String(repeating: "x", count: 65), "é"] {
            var options = good
            options.name = name
            #expect(refused(options), "\(name)")
        }
        for memory: UInt64 in [0, 4096, (64 << 20) + 4096, 3 << 20, .max] {
            var options = good
            options.memory = ByteCount(rawValue: memory)
            #expect(refused(options), "\(memory)")
        }
        for count in [0, -1, 255, 100_000] {
            var options = good
            options.vcpuCount = count
            #expect(refused(options), "\(count) vCPUs")
        }
        var options = good
        options.identifier = [1]
        #expect(refused(options))
        options = good
        options.guest = .selftest(commandLine: String(repeating: "x", count: 65536))
        #expect(refused(options))
    }

    @Test func missingKVMIsSaid() {
        #expect { try Machine.selftest("", host: HostOptions(kvmPath: "/nowhere/kvm")) } throws: { error in
            (error as? KVMError).map { $0.operation == "open" && $0.errno == ENOENT } ?? false
        }
    }

    /// A guest that jumps to nowhere: ud2 without an interrupt table is a triple fault.
    @Test func tripleFaultIsAnOutcome() throws {
        let machine = try Machine.tiny([0x0F, 0x0B])
        _ = try machine.resume()
        #expect(machine.waitForOutcome(timeout: .seconds(10)) == .shutdown(vcpu: 0))
        #expect { try machine.pause() } throws: { ($0 as? MachineError)?.code == .guestEnded }
        #expect { try machine.resume() } throws: { ($0 as? MachineError)?.code == .guestEnded }
    }

    /// Ports and addresses without a device read as all ones.
    @Test func nothingReadsAsOnes() throws {
        let code: [UInt8] = [
            0x66, 0xBA, 0x34, 0x12,  // mov dx, 0x1234
            0xED,  // in eax, dx
            0xA3, 0x00, 0x00, 0x30, 0x00,  // mov [0x300000], eax
            0xA1, 0x00, 0x00, 0x00, 0xD0,  // mov eax, [0xd0000000]
            0xA3, 0x04, 0x00, 0x30, 0x00,  // mov [0x300004], eax
            0x66, 0xBA, 0x01, 0x05,  // mov dx, 0x501
            0xB0, 0x2A, 0xEE,  // mov al, 42; out dx, al
            0xF4, 0xEB, 0xFD,  // hlt; jmp to it
        ]
        let machine = try Machine.tiny(code)
        _ = try machine.resume()
        #expect(machine.waitForOutcome(timeout: .seconds(10)) == .exited(code: 42))
        #expect(try machine.readMemory(at: GuestAddress(0x300000), byteCount: 8) == Array(repeating: 0xFF, count: 8))
    }
}
