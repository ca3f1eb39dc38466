/// `migratectl run`: a VM, from its first instruction to its last one here.

import ArgumentParser
import Control
import Glibc
import KVM
import Machine
import Migrate
import Units
import VMState

struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run", abstract: "Run a VM in this process.",
        discussion: """
            The command stays in the foreground as long as the VM runs here; SIGINT and SIGTERM stop the VM. It ends with
            0 when the guest or a person ended the VM, 21 when the guest failed, and 20 when the VM has moved elsewhere.
            """)

    @Option(help: "The VM's name: letters, digits, '.', '_' and '-'.")
    var name: String

    @Option(help: ArgumentHelp("Guest RAM: 256M, 4G.", valueName: "size"), transform: parseSize)
    var memory = ByteCount(256 << 20)

    @Option(help: "Virtual CPUs.")
    var cpus = 1

    @OptionGroup var model: CPUArguments

    @OptionGroup(title: "The guest") var guest: GuestArguments
    @OptionGroup(title: "This host") var host: HostArguments

    func validate() throws {
        do { _ = try VMName(name) } catch { throw ValidationError(error.message) }
        guard cpus >= 1 else { throw ValidationError("A VM has at least one vCPU.") }
    }

    func run() throws {
        let commandLine = try guest.commandLine(cpus: cpus)
        let cpu = try model.cpuModel()
        let starter = try VMStarter(name: VMName(name), host: host, guestName: guest.guest.rawValue)
        let machine: Machine
        do {
            machine = try makeMachine(starter, commandLine, cpu)
        } catch {
            starter.abandon()
            throw error
        }
        let status = try starter.run(machine)
        guard status == .success else { throw CommandError(status, "") }
    }

    private func makeMachine(_ starter: VMStarter, _ commandLine: String, _ cpu: CPUModel) throws -> Machine {
        try starter.makeMachine { options in
            try Machine(
                MachineOptions(
                    name: name, memory: memory, vcpuCount: cpus, cpu: cpu,
                    guest: .selftest(commandLine: commandLine),
                    host: options),
                logger: host.logger)
        }
    }
}
