/// `migratectl selftest-image`: the built-in guest as a file, for other VMMs.

import ArgumentParser
import Glibc
import SelfTest

struct SelfTestImageCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "selftest-image", abstract: "Write the built-in test guest to a file.",
        discussion: "It is a PVH ELF image that QEMU boots with -kernel; its command line goes to -append.")

    @Argument(help: "The file to write; - is standard output.", completion: .file())
    var file: String

    func run() throws {
        let bytes = SelfTestImage.bytes
        if file == "-" {
            let code = Output.writeAll(bytes, to: STDOUT_FILENO)
            guard code == 0 else { throw failure(code) }
            return
        }
        let temporary = file + ".new"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw failure(errno) }
        var code = Output.writeAll(bytes, to: descriptor)
        if close(descriptor) != 0, code == 0 { code = errno }
        if code == 0, rename(temporary, file) != 0 { code = errno }
        guard code == 0 else {
            unlink(temporary)
            throw failure(code)
        }
    }

    private func failure(_ code: Int32) -> CommandError {
        CommandError(.failure, "cannot write the image to \(file): \(String(cString: strerror(code)))")
    }
}
