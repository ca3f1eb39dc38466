/// The command `migratectl`: a thin layer over the libraries. One file a subcommand, in `Commands/`.

import ArgumentParser
import Control
import Glibc

@main
struct Migratectl: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "migratectl",
        abstract: "Runs KVM virtual machines, and moves them while they run.",
        discussion: """
            Try it on one machine, in three terminals:

              migratectl run --name demo --memory 256M --rate 100
              migratectl receive --listen 4444
              migratectl send demo --to localhost:4444

            Results go to standard output (as JSON with --json), everything else to standard error. Exit codes are in
            docs/cli.md, the control API of a VM in docs/openapi.yaml.
            """,
        version: "migratectl \(programVersion)",
        groupedSubcommands: [
            CommandGroup(
                name: "Running VMs",
                subcommands: [
                    RunCommand.self, ListCommand.self, StatusCommand.self, PauseCommand.self, ResumeCommand.self,
                    StopCommand.self, ConsoleCommand.self, ReportCommand.self,
                ]),
            CommandGroup(
                name: "Moving VMs",
                subcommands: [
                    ReceiveCommand.self, SendCommand.self, SwitchCommand.self, CancelCommand.self, SetCommand.self,
                    ResolveCommand.self,
                ]),
            CommandGroup(
                name: "Looking closer",
                subcommands: [
                    DoctorCommand.self, InspectCommand.self, SelfTestImageCommand.self, CompletionsCommand.self,
                ]),
        ])

    /// Parses, runs, and turns errors into one line and an exit code.
    static func main() {
        // A reader that goes away (a pipe into head) is an error of write, not the end of a VM.
        signal(SIGPIPE, SIG_IGN)
        do {
            var command = try parseAsRoot()
            try command.run()
            try Output.flush()
        } catch let error as CommandError {
            fail(error.status, error.message)
        } catch let error as ControlError {
            fail(ExitStatus(error.code), error.message)
        } catch {
            // Usage, help and completions are the parser's.
            exit(withError: error)
        }
    }

    private static func fail(_ status: ExitStatus, _ message: String) -> Never {
        if !message.isEmpty { Output.note("migratectl: \(message)") }
        Glibc.exit(status.rawValue)
    }
}

/// The version of this program.
let programVersion = "0.1.0"
