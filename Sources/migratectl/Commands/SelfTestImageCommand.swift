/// `migratectl selftest-image`: the built-in guest as a file, for other VMMs.

import ArgumentParser
import SelfTest

struct SelfTestImageCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "selftest-image", abstract: "Write the built-in test guest to a file.",
        discussion: "It is a PVH ELF image that QEMU boots with -kernel; its command line goes to -append.")

    @Argument(help: "The file to write; - is standard output.", completion: .file())
    var file: String

    func run() throws {
        try OutputFile.write(SelfTestImage.bytes, to: file, mode: 0o644)
    }
}
