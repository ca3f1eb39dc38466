import SelfTest
import Testing
import Units

/// The image is assembled into the library; these tests look at it as a boot loader would.
@Suite struct SelfTestImageTests {
    private func word(_ bytes: [UInt8], _ offset: Int) -> UInt64 {
        bytes[offset..<offset + 8].reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    @Test func isAnELFWithAPVHEntry() {
        let bytes = SelfTestImage.bytes
        #expect(bytes.starts(with: [0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]))
        let load = Int(word(bytes, 32))
        #expect(word(bytes, load) == 0x7_0000_0001, "PT_LOAD, RWX")
        #expect(word(bytes, load + 24) == SelfTestImage.loadAddress.rawValue)
        #expect(word(bytes, load + 32) == UInt64(bytes.count))
        let note = Int(word(bytes, load + 56 + 8))
        #expect(word(bytes, note) == 0x8_0000_0004, "sizes of name and entry")
        #expect(word(bytes, note + 16) == word(bytes, 24), "the note's entry is the ELF entry")
    }

    /// The file's bytes must end before the guest's bss begins (guest/layout.S).
    @Test func leavesTheBSSAlone() {
        #expect(SelfTestImage.bytes.count <= 0x40000)
    }

    @Test func carriesTheSharedPage() {
        let bytes = SelfTestImage.bytes
        let shared = Int(SelfTestImage.sharedAddress.rawValue - SelfTestImage.loadAddress.rawValue)
        #expect(Array(bytes[shared..<shared + 8]) == Array("SELFTEST".utf8))
    }
}
