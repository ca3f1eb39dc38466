/// Guests of a few instructions, in 32-bit protected mode without paging, and the ELF files that hold them.

import Glibc
import Machine
import Units

/// Builds PVH ELF files, good ones and others.
struct TestELF {
    var machine: UInt16 = 62
    var fileClass: UInt8 = 2
    var address: UInt64 = 0x200000
    var entry: UInt64 = 0x200000
    var code: [UInt8] = [0xF4]
    var fileByteCount: UInt64?
    var memoryByteCount: UInt64?
    var codeOffset: UInt64?
    var headerOffset: UInt64 = 64
    var headerCount: UInt16 = 2
    var noteName: [UInt8] = Array("Xen\0".utf8)
    var noteNameSize: UInt32 = 4
    var noteDescriptorSize: UInt32 = 8
    var noteOffset: UInt64?
    var noteByteCount: UInt64?

    var bytes: [UInt8] {
        let headers: UInt64 = 64 + 2 * 56
        let note = number(noteNameSize) + number(noteDescriptorSize) + number(UInt32(18)) + noteName + number(entry)
        var file: [UInt8] = [0x7F, 0x45, 0x4C, 0x46, fileClass, 1, 1] + Array(repeating: 0, count: 9)
        file += number(UInt16(2)) + number(machine) + number(UInt32(1)) + number(entry)
        file += number(headerOffset) + number(UInt64(0)) + number(UInt32(0))
        file += number(UInt16(64)) + number(UInt16(56)) + number(headerCount) + Array(repeating: 0, count: 6)
        let codeStart = headers + UInt64(note.count)
        file += header(
            1, codeOffset ?? codeStart, address, fileByteCount ?? UInt64(code.count),
            memoryByteCount ?? UInt64(code.count))
        file += header(4, noteOffset ?? headers, 0, noteByteCount ?? UInt64(note.count), UInt64(note.count))
        return file + note + code
    }

    private func header(_ type: UInt32, _ offset: UInt64, _ address: UInt64, _ file: UInt64, _ memory: UInt64)
        -> [UInt8]
    {
        number(type) + number(UInt32(7)) + number(offset) + number(address) + number(address) + number(file)
            + number(memory) + number(UInt64(4096))
    }

    private func number(_ value: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: value.littleEndian) { Array($0) }
    }
}

/// A file that goes away with its owner.
final class TemporaryFile {
    let path: String

    init(_ bytes: [UInt8]) {
        var template = Array("/tmp/migratectl-test-XXXXXX".utf8CString)
        let descriptor = mkstemp(&template)
        precondition(descriptor >= 0)
        _ = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        close(descriptor)
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit { unlink(path) }
}

extension Machine {
    /// A machine of 8 MiB that runs `code` at 2 MiB.
    static func tiny(_ code: [UInt8], vcpus: Int = 1, host: HostOptions = HostOptions()) throws -> Machine {
        let file = TemporaryFile(TestELF(code: code).bytes)
        defer { withExtendedLifetime(file) {} }
        return try Machine(
            MachineOptions(
                name: "tiny", memory: ByteCount(rawValue: 8 << 20), vcpuCount: vcpus,
                guest: .elf(path: file.path, commandLine: ""), host: host))
    }
}
