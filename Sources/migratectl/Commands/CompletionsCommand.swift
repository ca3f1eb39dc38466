/// `migratectl completions`: scripts for shells.

import ArgumentParser

struct CompletionsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "completions", abstract: "Print a completion script for a shell.",
        discussion: """
            bash:  source <(migratectl completions bash)
            zsh:   migratectl completions zsh > ~/.zfunc/_migratectl
            fish:  migratectl completions fish > ~/.config/fish/completions/migratectl.fish
            """)

    enum Shell: String, ExpressibleByArgument, CaseIterable {
        case bash, zsh, fish
    }

    @Argument(help: "bash, zsh or fish.")
    var shell: Shell

    func run() throws {
        let kind: CompletionShell =
            switch shell {
            case .bash: .bash
            case .zsh: .zsh
            case .fish: .fish
            }
        try Output.line(Migratectl.completionScript(for: kind))
    }
}
