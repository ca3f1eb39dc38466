/// `migratectl pause`, `resume` and `stop`.

import ArgumentParser
import Control
import Glibc

struct PauseCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "pause", abstract: "Let a VM stand still.")

    @OptionGroup var vm: VMArgument
    @OptionGroup var output: OutputOptions

    func run() throws {
        let client = try vm.client()
        try client.pause()
        if output.json { try Output.json(client.status()) }
    }
}

struct ResumeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "resume", abstract: "Let a paused VM go on.")

    @OptionGroup var vm: VMArgument
    @OptionGroup var output: OutputOptions

    func run() throws {
        let client = try vm.client()
        try client.resume()
        if output.json { try Output.json(client.status()) }
    }
}

struct StopCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stop", abstract: "End a VM and its process.",
        discussion: "The guest is not asked: this is the power switch. Returns when the VM's name is free again.")

    @OptionGroup var vm: VMArgument
    @OptionGroup var output: OutputOptions

    private struct Result: Encodable {
        var name: String
        var stopped = true
    }

    func run() throws {
        let name = try VMName(existing: vm.name)
        let directory = try RuntimeDirectory.standard()
        try vm.client().stop()
        // The process ends its connections, then its console, then gives the name back.
        for _ in 0..<500 where directory.isHeld(name) { usleep(20_000) }
        guard !directory.isHeld(name) else {
            throw CommandError(.unreachable, "the process of \(name) was told to stop and has not ended yet")
        }
        if output.json { try Output.json(Result(name: vm.name)) }
    }
}
