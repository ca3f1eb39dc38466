/// The sections of a PC's devices, and the settings of virtio devices.

import Testing
import VMState

struct PCDeviceStateTests {
    /// Sections as version 1 wrote them. Every later reader must read them, and say the same of them.
    private static let golden: [(name: String, bytes: [UInt8], rows: [String])] = [
        (
            "rtc.0", [0x08, 0x0B, 0x12, 0x80, 0x01] + [UInt8](repeating: 0x5A, count: 128) + [0x18, 0x03],
            ["index: 11", "registers: 128 bytes", "offsetSeconds: -2"]
        ),
        (
            "acpi.0", [0x08, 0x01, 0x10, 0x20, 0x18, 0x83, 0x38, 0x20, 0x01, 0x28, 0x03],
            [
                "eventStatus: 0x1", "eventEnable: 0x20", "control: 0x1c03", "generalStatus: 0x1", "generalEnable: 0x3",
            ]
        ),
        (
            "genid.0", [0x0A, 0x10] + Array(0..<16),
            ["identifier: 16 bytes", "identifier+0x0: 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f"]
        ),
    ]

    private func describe(_ name: String, _ bytes: [UInt8], version: UInt32 = 1) throws -> [String] {
        try #require(try StateDescription(section: name, version: version, bytes: bytes)).rows.map {
            "\($0.name): \($0.value)"
        }
    }

    @Test(arguments: golden.indices) func isReadAsEver(_ index: Int) throws {
        let (name, bytes, rows) = Self.golden[index]
        let said = try describe(name, bytes)
        #expect(rows.allSatisfy(said.contains), "\(said)")
    }

    @Test func goesThroughBytes() throws {
        let clock = ClockChipState(index: 127, registers: (0..<128).map { UInt8($0) }, offsetSeconds: .min)
        #expect(try ClockChipState(decoding: clock.encoded(), version: 1) == clock)
        var power = PowerState()
        (power.eventStatus, power.eventEnable, power.control) = (1, 2, .max)
        (power.generalStatus, power.generalEnable) = (4, .max)
        #expect(try PowerState(decoding: power.encoded(), version: 1) == power)
        let generation = GenerationState(identifier: [UInt8](repeating: 9, count: 16))
        #expect(try GenerationState(decoding: generation.encoded(), version: 1) == generation)
    }

    /// Cut, flipped and made-up bytes are refused or decoded; nothing traps.
    @Test func damagedOnesAreRefusedOrRead() throws {
        for (name, bytes, _) in Self.golden {
            for count in 0..<bytes.count { refusesOrReads { _ = try describe(name, Array(bytes.prefix(count))) } }
            for bit in 0..<bytes.count * 8 {
                var damaged = bytes
                damaged[bit / 8] ^= 1 << UInt8(bit % 8)
                refusesOrReads { _ = try describe(name, damaged) }
            }
            #expect(throws: StateError.self) { try describe(name, bytes, version: 2) }
            #expect(throws: StateError.self) { try describe(name, bytes, version: 0) }
            #expect(throws: StateError.self) { try describe(name, [UInt8](repeating: 0, count: 8192)) }
            #expect(try describe(name, bytes + [0xC0, 0x0C, 0x01]).last == "unknownFields: 3 bytes")
        }
        #expect(throws: StateError.self) { try describe("genid.0", []) }
        #expect(throws: StateError.self) { try describe("rtc.0", []) }
        #expect(throws: StateError.self) { try describe("acpi.0", [0x20, 0x80, 0x02]) }
    }

    private func refusesOrReads(_ body: () throws -> Void) {
        do { try body() } catch { #expect(error is StateError) }
    }
}

struct DeviceSettingsTests {
    private static let all: [DeviceSettings] = [
        .block(path: "/srv/ä b.img", byteCount: 1 << 40, isReadOnly: true, serial: "s-1"),
        .block(path: "d", byteCount: 1, isReadOnly: false, serial: ""),
        .network(tap: "tap0", mac: [2, 0, 0, 0, 0, 1]), .entropy, .console, .balloon,
    ]

    @Test func goThroughBytes() throws {
        for settings in Self.all {
            #expect(try DeviceSettings(decoding: settings.encoded()) == settings)
            #expect(DeviceSettings.kinds.contains(settings.kind))
        }
    }

    @Test func whatNoDeviceHasIsRefused() throws {
        let bad: [DeviceSettings] = [
            .block(path: "a\0b", byteCount: 1, isReadOnly: false, serial: ""),
            .block(path: "a", byteCount: 0, isReadOnly: false, serial: ""),
            .block(path: "a", byteCount: 1, isReadOnly: false, serial: String(repeating: "x", count: 21)),
            .network(tap: "", mac: [2, 0, 0, 0, 0, 1]), .network(tap: "a/b", mac: [2, 0, 0, 0, 0, 1]),
            .network(tap: "sixteen-letters-", mac: [2, 0, 0, 0, 0, 1]), .network(tap: "t", mac: [2, 0, 0]),
        ]
        for settings in bad {
            #expect(throws: StateError.self) { try DeviceSettings(decoding: settings.encoded()) }
        }
        let long = DeviceSettings.block(
            path: String(repeating: "x", count: 4096), byteCount: 1, isReadOnly: false, serial: "")
        #expect(throws: StateError.self) { try long.encoded() }
        #expect(throws: StateError.self) { try DeviceSettings(decoding: []) }
        #expect(throws: StateError.self) { try DeviceSettings(decoding: [UInt8](repeating: 0xFF, count: 40)) }
    }

    @Test func damagedOnesAreRefusedOrRead() throws {
        for settings in Self.all {
            let bytes = try settings.encoded()
            for bit in 0..<bytes.count * 8 {
                var damaged = bytes
                damaged[bit / 8] ^= 1 << UInt8(bit % 8)
                do { _ = try DeviceSettings(decoding: damaged) } catch { #expect(!error.message.isEmpty) }
            }
        }
    }
}
