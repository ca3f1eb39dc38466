/// The tables that tell a kernel what its machine has.

import Foundation
import Machine
import Testing

struct ACPITests {
    private static let sets = [
        ACPITables(vcpuCount: 1, virtioSlots: []), ACPITables(vcpuCount: 2, virtioSlots: [0, 3]),
        ACPITables(vcpuCount: 254, virtioSlots: Array(0..<8)),
    ]

    private func number(_ bytes: [UInt8], _ offset: Int, _ size: Int) -> UInt64 {
        (0..<size).reduce(0) { $0 | UInt64(bytes[offset + $1]) << UInt64($1 * 8) }
    }

    @Test(arguments: sets.indices) func everyPointerLeadsToATableWithAGoodChecksum(_ index: Int) throws {
        let placed = Self.sets[index].placed()
        let byAddress = Dictionary(uniqueKeysWithValues: placed.map { ($0.address, $0.bytes) })
        let root = try #require(byAddress[ACPITables.start])
        #expect(root.count == 36 && root.reduce(0, &+) == 0 && root.prefix(20).reduce(0, &+) == 0)
        #expect(String(decoding: root.prefix(8), as: UTF8.self) == "RSD PTR ")

        let list = try #require(byAddress[number(root, 24, 8)])
        #expect(String(decoding: list.prefix(4), as: UTF8.self) == "XSDT")
        let listed = try stride(from: 36, to: list.count, by: 8).map { try #require(byAddress[number(list, $0, 8)]) }
        #expect(listed.map { String(decoding: $0.prefix(4), as: UTF8.self) } == ["FACP", "APIC"])
        let dsdt = try #require(byAddress[number(listed[0], 140, 8)])
        #expect(number(listed[0], 40, 4) == number(listed[0], 140, 8))
        #expect(String(decoding: dsdt.prefix(4), as: UTF8.self) == "DSDT")
        for table in listed + [list, dsdt] {
            #expect(number(table, 4, 4) == UInt64(table.count))
            #expect(table.reduce(0, &+) == 0)
        }
        let facs = try #require(byAddress[number(listed[0], 36, 4)])
        #expect(String(decoding: facs.prefix(4), as: UTF8.self) == "FACS" && facs.count == 64)
        #expect(number(listed[0], 36, 4) % 64 == 0)
    }

    @Test(arguments: sets.indices) func tablesLieInTheFirmwaresAreaAndApart(_ index: Int) {
        let ranges = Self.sets[index].placed().map { $0.address..<$0.address + UInt64($0.bytes.count) }
            .sorted { $0.lowerBound < $1.lowerBound }
        #expect(ranges.allSatisfy { $0.lowerBound % 16 == 0 && $0.lowerBound >= 0xE0000 && $0.upperBound <= 0xF0000 })
        for (low, high) in zip(ranges, ranges.dropFirst()) { #expect(low.upperBound <= high.lowerBound) }
    }

    @Test func theFADTHasItsFieldsWhereTheyBelong() {
        let bytes = Self.sets[0].fixed(dsdt: 0xE1234, facs: 0xE0040).bytes
        #expect(bytes.count == 276)
        #expect(number(bytes, 46, 2) == 9)  // SCI
        #expect(number(bytes, 48, 4) == 0)  // no SMI
        #expect(number(bytes, 56, 4) == 0x600 && bytes[88] == 4)
        #expect(number(bytes, 64, 4) == 0x604 && bytes[89] == 2)
        #expect(number(bytes, 80, 4) == 0x620 && bytes[92] == 2)
        #expect(bytes[108] == 0x32)  // century
        #expect(number(bytes, 112, 4) & (1 << 10) != 0)
        #expect(number(bytes, 120, 8) == 0xCF9 && bytes[128] == 6)
        #expect(bytes[148] == 1 && number(bytes, 152, 8) == 0x600)
        #expect(number(bytes, 176, 8) == 0x604)
        #expect(number(bytes, 224, 8) == 0x620)
    }

    @Test func theMADTHasAnEntryForEachVCPU() {
        let bytes = ACPITables(vcpuCount: 5, virtioSlots: []).interruptControllers.bytes
        var position = 44
        var entries: [UInt8: Int] = [:]
        var ids: [UInt8] = []
        while position < bytes.count {
            entries[bytes[position], default: 0] += 1
            if bytes[position] == 0 { ids.append(bytes[position + 3]) }
            position += Int(bytes[position + 1])
        }
        #expect(position == bytes.count)
        #expect(entries == [0: 5, 1: 1, 2: 1, 4: 1])
        #expect(ids == [0, 1, 2, 3, 4])
    }

    /// With Debian's acpica-tools: an independent reader understands what we write.
    @Test(arguments: sets.indices) func anotherReaderUnderstandsTheTables(_ index: Int) throws {
        let known = ["/usr/bin/iasl", ProcessInfo.processInfo.environment["IASL"]].compactMap(\.self)
        guard let iasl = known.first(where: { FileManager.default.isExecutableFile(atPath: $0) }) else {
            print("SKIPPED: iasl is missing, so nobody but us reads the ACPI tables: apt-get install acpica-tools")
            return
        }
        let directory = "/tmp/mct-acpi-\(getpid())-\(index)"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let tables = Self.sets[index]
        let dsdt = tables.differentiated
        for (name, table) in [
            ("dsdt", dsdt), ("facp", tables.fixed(dsdt: 0xE0080, facs: 0xE0040)),
            ("apic", tables.interruptControllers),
        ] {
            let file = "\(directory)/\(name).aml"
            try Data(table.bytes).write(to: URL(filePath: file))
            let process = Process()
            process.executableURL = URL(filePath: iasl)
            process.arguments = ["-d", file]
            let output = Pipe()
            (process.standardOutput, process.standardError) = (output, output)
            try process.run()
            let said = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
            process.waitUntilExit()
            #expect(process.terminationStatus == 0, "\(said)")
            let text = try String(contentsOfFile: "\(directory)/\(name).dsl", encoding: .utf8)
            #expect(!said.contains("rror") && !text.contains("Invalid") && !text.contains("**** "), "\(said)\n\(text)")
            if name == "dsdt" {
                for slot in tables.virtioSlots { #expect(text.contains("Device (VR0\(slot))")) }
                for word in ["VM_Gen_Counter", "\\_S5", "PNP0501", "PNP0B00", "Notify (\\_SB.VGEN, 0x80)"] {
                    #expect(text.contains(word), "\(word) in \(text)")
                }
            }
        }
    }
}

struct AMLTests {
    @Test func numbersTakeTheirShortestForm() {
        #expect(AML.integer(0).bytes == [0x00])
        #expect(AML.integer(1).bytes == [0x01])
        #expect(AML.integer(0xFF).bytes == [0x0A, 0xFF])
        #expect(AML.integer(0x1234).bytes == [0x0B, 0x34, 0x12])
        #expect(AML.integer(0xD000_0000).bytes == [0x0C, 0, 0, 0, 0xD0])
        #expect(AML.integer(1 << 32).bytes == [0x0E, 0, 0, 0, 0, 1, 0, 0, 0])
    }

    @Test func namesAreFilledUpAndCounted() {
        #expect(AML.name("_UID", .integer(1)).bytes == [0x08] + Array("_UID".utf8) + [1])
        #expect(AML.scope("\\_SB", []).bytes == [0x10, 6, 0x5C] + Array("_SB_".utf8))
        #expect(AML.notify("\\_SB.VGEN", 0x80).bytes == [0x86, 0x5C, 0x2E] + Array("_SB_VGEN".utf8) + [0x0A, 0x80])
    }

    @Test func eisaIdentifiersAreCompressed() {
        // As ASL compilers write EisaId ("PNP0501") and EisaId ("PNP0C0A").
        #expect(AML.eisaID("PNP0501").bytes == [0x0C, 0x41, 0xD0, 0x05, 0x01])
        #expect(AML.eisaID("PNP0C0A").bytes == [0x0C, 0x41, 0xD0, 0x0C, 0x0A])
    }

    /// A length counts itself, in one to four bytes.
    @Test(arguments: [0, 50, 62, 63, 64, 200, 4000, 4094, 4096, 100_000, 1_048_576])
    func lengthsCountThemselves(_ size: Int) {
        let bytes = AML.buffer([UInt8](repeating: 7, count: size)).bytes
        let more = Int(bytes[1] >> 6)
        var length = Int(bytes[1] & (more == 0 ? 0x3F : 0x0F))
        for index in 0..<more { length |= Int(bytes[2 + index]) << (4 + 8 * index) }
        #expect(length == bytes.count - 1)
    }
}
