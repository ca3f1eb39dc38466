/// No bzImage, initrd or command line, however wrong, does more than be refused.

import Glibc
import KVM
import Machine
import Migrate
import Testing
import Units

/// A bzImage as small as one can be; its fields can be made wrong.
struct TestBZImage {
    var bytes: [UInt8]

    init(kernelByteCount: Int = 4096, memoryByteCount: UInt32 = 1 << 20, preferredAddress: UInt64 = 1 << 20) {
        bytes = [UInt8](repeating: 0, count: 1024 + kernelByteCount)
        self[0x1F1, UInt8.self] = 1  // setup sectors
        self[0x1F4, UInt32.self] = UInt32(kernelByteCount / 16)
        self[0x1FE, UInt16.self] = 0xAA55
        self[0x201, UInt8.self] = 0x6A  // the jump over the header
        self[0x202, UInt32.self] = 0x5372_6448
        self[0x206, UInt16.self] = 0x020F
        self[0x211, UInt8.self] = 1
        self[0x22C, UInt32.self] = 0x7FFF_FFFF
        self[0x230, UInt32.self] = 0x20_0000
        self[0x234, UInt8.self] = 1
        self[0x236, UInt16.self] = 1
        self[0x238, UInt32.self] = 2047
        self[0x258, UInt64.self] = preferredAddress
        self[0x260, UInt32.self] = memoryByteCount
    }

    subscript<Number: FixedWidthInteger & UnsignedInteger>(_ offset: Int, _: Number.Type) -> Number {
        get { (0..<Number.bitWidth / 8).reduce(0) { $0 | Number(bytes[offset + $1]) << Number($1 * 8) } }
        set {
            for index in 0..<Number.bitWidth / 8 {
                bytes[offset + index] = UInt8(truncatingIfNeeded: newValue >> Number(index * 8))
            }
        }
    }
}

@Suite(.enabled(if: hasKVM, noKVM))
struct LinuxImageTests {
    private func make(
        _ kernel: [UInt8], initrd: [UInt8]? = nil, commandLine: String = "", memory: UInt64 = 16 << 20
    ) throws -> Machine {
        let file = TemporaryFile(kernel)
        let disk = initrd.map { TemporaryFile($0) }
        defer { withExtendedLifetime((file, disk)) {} }
        return try Machine(
            MachineOptions(
                name: "linux", memory: ByteCount(rawValue: memory),
                guest: .linux(kernel: file.path, initrd: disk?.path, commandLine: commandLine)))
    }

    private func refusal(
        _ kernel: [UInt8], initrd: [UInt8]? = nil, commandLine: String = "", memory: UInt64 = 16 << 20
    ) -> MachineError? {
        do {
            _ = try make(kernel, initrd: initrd, commandLine: commandLine, memory: memory)
            return nil
        } catch {
            return error as? MachineError ?? MachineError(.hostRefused, "\(error)")
        }
    }

    static let variants: [(String, TestBZImage)] = {
        var list: [(String, TestBZImage)] = []
        func add(_ name: String, _ change: (inout TestBZImage) -> Void) {
            var image = TestBZImage()
            change(&image)
            list.append((name, image))
        }
        add("no boot flag") { $0[0x1FE, UInt16.self] = 0 }
        add("no magic") { $0[0x202, UInt32.self] = 0 }
        add("an old protocol") { $0[0x206, UInt16.self] = 0x020B }
        add("a 32-bit kernel") { $0[0x236, UInt16.self] = 0 }
        add("a zImage") { $0[0x211, UInt8.self] = 0 }
        add("no kernel in it") { $0[0x1F4, UInt32.self] = 0 }
        add("more kernel than there is") { $0[0x1F4, UInt32.self] = 257 }
        add("more kernel than any file has") { $0[0x1F4, UInt32.self] = .max }
        add("setup reaches beyond the end") { $0[0x1F1, UInt8.self] = 200 }
        add("header ends too early") { $0[0x201, UInt8.self] = 0x10 }
        add("header ends too late") { $0[0x201, UInt8.self] = 0xFF }
        add("alignment of zero") { $0[0x230, UInt32.self] = 0 }
        add("odd alignment") { $0[0x230, UInt32.self] = 0x20_0001 }
        add("huge alignment") { $0[0x230, UInt32.self] = 0x8000_0000 }
        add("wants to be at zero") { $0[0x258, UInt64.self] = 0 }
        add("wants to be above all") { $0[0x258, UInt64.self] = .max }
        add("wants more memory than there is") { $0[0x260, UInt32.self] = .max }
        add("fits nowhere and cannot move") {
            $0[0x258, UInt64.self] = 15 << 20
            $0[0x260, UInt32.self] = 2 << 20
            $0[0x234, UInt8.self] = 0
        }
        return list
    }()

    @Test(arguments: variants.indices) func variantIsRefused(_ index: Int) {
        let (name, image) = Self.variants[index]
        #expect(refusal(image.bytes)?.code == .badGuestImage, "\(name)")
    }

    @Test func theGoodOneIsNot() { #expect(refusal(TestBZImage().bytes) == nil) }

    @Test func whatIsNoKernelIsRefusedInWords() {
        for bytes in [[], [0x7F], Array("#!/bin/sh\n".utf8), [UInt8](repeating: 0, count: 5000)] {
            let error = refusal(bytes)
            #expect(error?.code == .badGuestImage)
            #expect(error?.message.contains("kernel") == true, "\(error as Any)")
        }
    }

    @Test func everyTruncationIsRefused() {
        let whole = TestBZImage(kernelByteCount: 512).bytes
        // The last paragraph need not be whole.
        for length in stride(from: 0, through: whole.count - 16, by: 97) {
            #expect(refusal(Array(whole.prefix(length)))?.code == .badGuestImage, "\(length) bytes")
        }
    }

    /// Flipped bits either leave a bootable file or are refused by name; nothing traps.
    @Test func flippedBitsDoNoHarm() {
        let whole = TestBZImage().bytes
        for bit in stride(from: 0x1F1 * 8, to: 0x290 * 8, by: 3) {
            var bytes = whole
            bytes[bit / 8] ^= 1 << UInt8(bit % 8)
            if let error = refusal(bytes) { #expect(error.code == .badGuestImage, "bit \(bit): \(error)") }
        }
    }

    @Test func theKernelMovesWhereItFits() throws {
        var image = TestBZImage(memoryByteCount: 2 << 20, preferredAddress: 64 << 20)
        image.bytes[1024 + 512] = 0xF4
        let machine = try make(image.bytes)
        // The lowest aligned place, as the preferred one is beyond memory.
        #expect(try machine.readMemory(at: GuestAddress(2 << 20), byteCount: 513)[512] == 0xF4)
    }

    @Test func initrdAndCommandLineAreWhereTheParametersSay() throws {
        let disk = (0..<70_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        let machine = try make(TestBZImage().bytes, initrd: disk, commandLine: "console=ttyS0 a=b")
        let parameters = try machine.readMemory(at: GuestAddress(0x8000), byteCount: 4096)
        func number(_ offset: Int, _ size: Int) -> UInt64 {
            (0..<size).reduce(0) { $0 | UInt64(parameters[offset + $1]) << UInt64($1 * 8) }
        }
        let start = number(0x218, 4)
        #expect(start % 4096 == 0 && start + 70_000 <= 16 << 20 && number(0x21C, 4) == 70_000)
        #expect(try machine.readMemory(at: GuestAddress(start), byteCount: 70_000) == disk)
        let line = try machine.readMemory(at: GuestAddress(number(0x228, 4)), byteCount: 18)
        #expect(line == Array("console=ttyS0 a=b".utf8) + [0])
        #expect(number(0x070, 8) == ACPITables.start)
        // The map: RAM, the hole below 1 MiB, RAM.
        #expect(parameters[0x1E8] == 3)
        #expect(number(0x2D0, 8) == 0 && number(0x2D8, 8) == 0xA0000 && number(0x2E0, 4) == 1)
        #expect(number(0x2F8, 8) == 1 << 20 && number(0x300, 8) == 15 << 20)
    }

    @Test func whatDoesNotFitIsRefusedInWords() {
        let kernel = TestBZImage().bytes
        let large = refusal(kernel, initrd: [UInt8](repeating: 1, count: 20 << 20))
        #expect(large?.code == .badGuestImage && large?.message.contains("initrd") == true, "\(large as Any)")
        #expect(refusal(kernel, initrd: [])?.message.contains("empty") == true)
        let long = refusal(kernel, commandLine: String(repeating: "x", count: 2048))
        #expect(long?.message.contains("2047") == true, "\(long as Any)")
        #expect(refusal(kernel, commandLine: String(repeating: "x", count: 2047)) == nil)
        #expect(refusal(kernel, commandLine: "a\0b")?.code == .invalidOptions)
    }

    @Test func theMachineHasWhatAnOperatingSystemNeeds() throws {
        let machine = try make(TestBZImage().bytes)
        #expect(machine.configuration.devices.map(\.name) == ["serial.0", "rtc.0", "acpi.0", "genid.0"])
        let identifier = try machine.readMemory(at: GuestAddress(0xF0028), byteCount: 16)
        #expect(identifier.contains { $0 != 0 })
        // A move takes the identifier along; a clone gets another.
        let state = try machine.captureState()
        let copy = try LocalMachineBuilder().makeLocalMachine(for: machine.configuration)
        try copy.writeMemory(identifier, at: GuestAddress(0xF0028))
        try copy.restoreState(state)
        #expect(try copy.readMemory(at: GuestAddress(0xF0028), byteCount: 16) == identifier)
        try copy.changeGeneration()
        #expect(try copy.readMemory(at: GuestAddress(0xF0028), byteCount: 16) != identifier)
        #expect(try copy.captureState().first { $0.name == "acpi.0" } != state.first { $0.name == "acpi.0" })
    }
}
