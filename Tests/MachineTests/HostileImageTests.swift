/// No ELF file, however wrong, does more than be refused.

import Glibc
import KVM
import Machine
import Testing
import Units

@Suite(.enabled(if: hasKVM, noKVM))
struct HostileImageTests {
    private func refusal(_ bytes: [UInt8]) -> MachineError? {
        let file = TemporaryFile(bytes)
        defer { withExtendedLifetime(file) {} }
        do {
            _ = try Machine(
                MachineOptions(
                    name: "hostile", memory: ByteCount(rawValue: 8 << 20),
                    guest: .elf(path: file.path, commandLine: "")))
            return nil
        } catch {
            return error as? MachineError
        }
    }

    static let variants: [(String, TestELF)] = {
        var list: [(String, TestELF)] = []
        func add(_ name: String, _ change: (inout TestELF) -> Void) {
            var elf = TestELF()
            change(&elf)
            list.append((name, elf))
        }
        add("other architecture") { $0.machine = 183 }
        add("32 bit") { $0.fileClass = 1 }
        add("headers beyond the end") { $0.headerOffset = 1 << 40 }
        add("headers at the end of the number range") { $0.headerOffset = .max }
        add("no headers") { $0.headerCount = 0 }
        add("many headers") { $0.headerCount = .max }
        add("segment beyond the file") {
            $0.fileByteCount = 1 << 30; $0.memoryByteCount = 1 << 30
        }
        add("segment offset overflow") { $0.codeOffset = .max }
        add("more in the file than in memory") { $0.memoryByteCount = 0 }
        add("segment beyond RAM") {
            $0.address = 1 << 30; $0.entry = 1 << 30
        }
        add("segment wraps around") {
            $0.address = .max; $0.memoryByteCount = 2
        }
        add("segment grows out of RAM") { $0.memoryByteCount = 1 << 40 }
        add("segment grows beyond all numbers") { $0.memoryByteCount = .max - 1 }
        add("segment in the first MiB") {
            $0.address = 0x7000; $0.entry = 0x7000
        }
        add("entry outside") { $0.entry = 0x100 }
        add("entry above 4 GiB") { $0.entry = 1 << 33 }
        add("no note") { $0.noteName = Array("Xon\0".utf8) }
        add("note name too long") { $0.noteNameSize = .max }
        add("note descriptor too long") { $0.noteDescriptorSize = .max }
        add("note of odd size") { $0.noteDescriptorSize = 5 }
        add("note beyond the file") { $0.noteOffset = 1 << 20 }
        return list
    }()

    @Test(arguments: variants.indices)
    func variantIsRefused(_ index: Int) {
        let (name, elf) = Self.variants[index]
        let error = refusal(elf.bytes)
        #expect(error?.code == .badGuestImage, "\(name)")
    }

    @Test func theGoodOneIsNot() { #expect(refusal(TestELF().bytes) == nil) }

    @Test func everyTruncationIsRefused() {
        let whole = TestELF(code: Array(repeating: 0x90, count: 32)).bytes
        for length in stride(from: 0, to: whole.count, by: 7) {
            #expect(refusal(Array(whole.prefix(length)))?.code == .badGuestImage, "\(length) bytes")
        }
    }

    /// Flipped bits either leave a bootable file or are refused by name; nothing traps.
    @Test func flippedBitsNeverTrap() {
        let whole = TestELF(code: Array(repeating: 0x90, count: 8)).bytes
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<150 {
            var bytes = whole
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                bytes[Int.random(in: bytes.indices, using: &generator)] ^=
                    1 << UInt8.random(in: 0..<8, using: &generator)
            }
            _ = refusal(bytes)
        }
    }

    @Test func whatIsNoFileIsRefused() {
        func attempt(_ path: String) -> (any Error)? {
            do {
                _ = try Machine(
                    MachineOptions(
                        name: "hostile", memory: ByteCount(rawValue: 8 << 20),
                        guest: .elf(path: path, commandLine: "")))
                return nil
            } catch {
                return error
            }
        }
        #expect((attempt("/nowhere/kernel") as? KVMError)?.errno == ENOENT)
        #expect((attempt("/tmp") as? MachineError)?.code == .badGuestImage)
        #expect((attempt("/dev/zero") as? MachineError)?.code == .badGuestImage)
    }
}
