/// Bytes that are not a state: refused with a word on why, never a crash, whatever they are.

import CKVM
import KVM
import Testing
import VMState

@Suite(.enabled(if: isKVMUsable, "no usable /dev/kvm on this host"))
struct HostileStateTests {
    /// One section of each kind, from a VM that has something in every part.
    static let samples: [(name: String, bytes: [UInt8])] = {
        guard let vm = try? TestVM(), (try? vm.fill(vcpu: 0, mode: .long, seed: 3)) != nil,
            (try? vm.fillPlatform()) != nil, let whole = try? vm.capture(), let platform = whole.platform
        else { return [] }
        var serial = SerialState()
        serial.receiveFIFO = [1, 2, 3]
        serial.divisor = 12
        let sections: [(String, any SavedState)] = [
            ("vcpu.0", whole.vcpus[0]), ("irqchip", platform.irqchip), ("pit", platform.pit),
            ("clock", platform.clock), ("serial.0", serial), ("virtio.0", VirtioStateTests.sample),
        ]
        return sections.compactMap { name, state in (try? state.encoded()).map { (name, $0) } }
    }()

    /// Decodes as a receiver does. What is accepted must be encoded and described without trouble.
    private func decode(_ name: String, _ bytes: [UInt8], version: UInt32 = 1) throws -> StateDescription {
        try #require(try StateDescription(section: name, version: version, bytes: bytes))
    }

    @Test func samplesAreThere() { #expect(Self.samples.count == 6) }

    /// Cut off anywhere, a section is refused, or (when the cut falls between two fields that may be absent) differs
    /// from the whole in what it says.
    @Test func truncation() throws {
        for (name, bytes) in Self.samples {
            let whole = try decode(name, bytes)
            for count in stride(from: 0, to: bytes.count, by: bytes.count > 1000 ? 7 : 1) {
                do {
                    #expect(try decode(name, Array(bytes.prefix(count))) != whole, "\(name) cut at \(count)")
                } catch let error as StateError {
                    #expect(!error.message.isEmpty)
                }
            }
        }
    }

    /// The section as it is written after it was read: what was accepted, in its one form.
    private func rewritten(_ name: String, _ bytes: [UInt8]) throws -> [UInt8] {
        switch name {
        case "vcpu.0": try VCPUState(decoding: bytes, version: 1).encoded()
        case "irqchip": try IRQChipState(decoding: bytes, version: 1).encoded()
        case "pit": try PITState(decoding: bytes, version: 1).encoded()
        case "clock": try ClockState(decoding: bytes, version: 1).encoded()
        case "virtio.0": try VirtioState(decoding: bytes, version: 1).encoded()
        default: try SerialState(decoding: bytes, version: 1).encoded()
        }
    }

    /// Every bit of the small sections and many of the large one. What is still accepted either means the same (a
    /// "yes" may be any number but 0) or shows in the description: no field is left out of it.
    @Test func flippedBits() throws {
        var random = Bytes(seed: 42)
        for (name, bytes) in Self.samples {
            let whole = try decode(name, bytes)
            let bits = bytes.count * 8
            let all = bits <= 4000 ? Array(0..<bits) : (0..<1500).map { _ in random.below(bits) }
            for bit in all {
                var damaged = bytes
                damaged[bit / 8] ^= 1 << UInt8(bit % 8)
                do {
                    let isSame = try rewritten(name, damaged) == bytes
                    #expect(try (decode(name, damaged) == whole) == isSame, "\(name) bit \(bit)")
                } catch let error as StateError {
                    #expect(!error.message.isEmpty)
                }
            }
        }
    }

    @Test func garbage() throws {
        var random = Bytes(seed: 1)
        for round in 0..<3000 {
            let bytes = (0..<random.below(400)).map { _ in UInt8(truncatingIfNeeded: random.next()) }
            let name = Self.samples[round % Self.samples.count].name
            do { _ = try decode(name, bytes) } catch is StateError {}
        }
    }

    /// Nothing that decodes makes KVM or this process fail worse than by an error: damaged states are restored too.
    @Test func damagedStatesMeetKVM() throws {
        var random = Bytes(seed: 9)
        let bytes = try #require(Self.samples.first).bytes
        var accepted = 0
        for _ in 0..<60 {
            var damaged = bytes
            for _ in 0..<3 { damaged[random.below(bytes.count)] ^= 1 << UInt8(random.below(8)) }
            guard let state = try? VCPUState(decoding: damaged, version: 1) else { continue }
            accepted += 1
            let vm = try TestVM()
            do { _ = try state.restore(into: vm.vcpus[0], clock: nil) } catch { #expect(!error.message.isEmpty) }
        }
        #expect(accepted > 0)
    }

    @Test func tooLong() {
        for (name, _) in Self.samples {
            let error = #expect(throws: StateError.self) {
                try decode(name, [UInt8](repeating: 0, count: 512 << 10))
            }
            #expect(error?.message.contains("524288 bytes long, more than the") == true)
        }
    }

    @Test func versions() throws {
        for (name, bytes) in Self.samples {
            let newer = #expect(throws: StateError.self) { try decode(name, bytes, version: 7) }
            #expect(newer?.code == .unsupportedVersion)
            #expect(newer?.message.hasSuffix("has version 7; this migratectl reads up to version 1") == true)
            #expect(throws: StateError.self) { try decode(name, bytes, version: 0) }
        }
    }

    /// A field that this version does not know (number 200) is kept out of the way and mentioned.
    @Test func unknownFieldsAreNamed() throws {
        for (name, bytes) in Self.samples {
            let rows = try decode(name, bytes + [0xC0, 0x0C, 0x01]).rows
            #expect(rows.last?.name == "unknownFields" && rows.last?.value == "3 bytes")
        }
    }

    /// Impossible values are refused before KVM sees them, by the field's name.
    @Test func impossibleValues() throws {
        let vcpu = try #require(Self.samples.first).bytes
        // A later field of the same number takes the earlier one's place, or is merged into it.
        let cases: [(extra: [UInt8], message: String)] = [
            ([0x48, 0x07], "vcpu state has an impossible mp state: 7"),
            ([0x52, 0x01, 0x00], "vcpu state has an impossible lapic size: 1 bytes"),
            ([0x1A, 0x01, 0x00], "vcpu state has an impossible xsave size: 1 bytes"),
            ([0x5A, 0x02, 0x08, 0x00], "vcpu state has an impossible tsc frequency: 0 kHz"),
            ([0x22, 0x00], "vcpu state has 2 entries of xcrs, more than the 1 allowed"),
            ([0x32, 0x02, 0x08, 0x10], "vcpu state has an impossible list of msrs: IA32_TSC (0x10) twice"),
            ([0x12, 0x04, 0x0A, 0x02, 0x20, 0x10], "vcpu state has an impossible cs type: 16"),
            ([0x42, 0x02, 0x18, 0x20], "vcpu state has an impossible exception vector: 32"),
        ]
        for (extra, message) in cases {
            let error = #expect(throws: StateError.self) { try decode("vcpu.0", vcpu + extra) }
            #expect(error?.description == message)
        }
        #expect(throws: StateError(.malformed, "vcpu state lacks general registers")) { try decode("vcpu.0", []) }
    }
}
