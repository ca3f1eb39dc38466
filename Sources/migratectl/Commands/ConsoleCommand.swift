/// `migratectl console`: attaches to a VM's serial console.

import ArgumentParser
import Control
import Glibc

struct ConsoleCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "console", abstract: "Attach to a VM's serial console.",
        discussion: "The last output is shown first. On a terminal, Ctrl-] detaches; the VM does not notice.")

    @OptionGroup var vm: VMArgument

    func run() throws {
        let connection = try ConsoleConnection(VMName(existing: vm.name), in: .standard())
        let terminal = RawTerminal()
        defer { terminal?.restore() }
        if terminal != nil { Output.note("attached to \(vm.name); Ctrl-] detaches") }
        let wasDetached = try pump(connection, isTerminal: terminal != nil)
        terminal?.restore()
        Output.note(wasDetached ? "\ndetached" : "migratectl: \(vm.name) has ended here, or has moved away")
    }

    /// True when the person left, false when the VM's process did.
    private func pump(_ connection: ConsoleConnection, isTerminal: Bool) throws -> Bool {
        var entries = [
            pollfd(fd: connection.descriptor, events: Int16(POLLIN), revents: 0),
            pollfd(fd: STDIN_FILENO, events: Int16(POLLIN), revents: 0),
        ]
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            if poll(&entries, nfds_t(entries.count), -1) < 0, errno != EINTR { return false }
            if entries[0].revents != 0 {
                let bytes = connection.read()
                if bytes.isEmpty { return false }
                let code = Output.writeAll(bytes, to: STDOUT_FILENO)
                guard code == 0 else {
                    throw CommandError(.failure, code == EPIPE ? "" : "cannot write the console's output")
                }
            }
            if entries[1].revents != 0 {
                let count = read(STDIN_FILENO, &buffer, buffer.count)
                // The end of a pipe ends the typing, not the watching.
                if count <= 0 {
                    entries[1].fd = -1
                    continue
                }
                let escape: UInt8 = 0x1d  // Ctrl-]
                let typed = buffer[..<count]
                if isTerminal, let place = typed.firstIndex(of: escape) {
                    _ = connection.write(Array(typed[..<place]))
                    return true
                }
                if !connection.write(Array(typed)) { return false }
            }
        }
    }
}

/// Standard input as a terminal that passes every key on; given back as it was.
private final class RawTerminal {
    private var before = termios()
    private var isRaw = true

    /// Nil if standard input is not a terminal.
    init?() {
        guard isatty(STDIN_FILENO) != 0, tcgetattr(STDIN_FILENO, &before) == 0 else { return nil }
        var raw = before
        cfmakeraw(&raw)
        // What the guest prints has its own line ends; let the terminal complete bare ones.
        raw.c_oflag |= tcflag_t(OPOST | ONLCR)
        guard tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0 else { return nil }
    }

    func restore() {
        guard isRaw else { return }
        isRaw = false
        tcsetattr(STDIN_FILENO, TCSANOW, &before)
    }
}
