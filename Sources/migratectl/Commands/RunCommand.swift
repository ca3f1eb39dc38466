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
            The VM is the built-in test guest, or with --kernel a Linux system. A configuration file says the same as the
            flags, by the same names; flags override it.

            The command stays in the foreground as long as the VM runs here; SIGINT and SIGTERM stop the VM. It ends with
            0 when the guest or a person ended the VM, 22 when the guest asked for a reboot, 21 when it failed, and 20
            when the VM has moved elsewhere.
            """)

    @Option(help: "The VM's name: letters, digits, '.', '_' and '-'.")
    var name: String?

    @Option(help: ArgumentHelp("Guest RAM: 256M, 4G. (default: 256M)", valueName: "size"), transform: parseSize)
    var memory: ByteCount?

    @Option(help: "Virtual CPUs. (default: 1)")
    var cpus: Int?

    @Option(
        name: .customLong("config"),
        help: ArgumentHelp("Take from this YAML file what no flag says; - is standard input.", valueName: "file"),
        completion: .file(extensions: ["yaml", "yml"]))
    var file: String?

    @Flag(help: "Print the configuration that file and flags add up to, and start nothing.")
    var printConfig = false

    @OptionGroup var model: CPUArguments

    @OptionGroup(title: "An operating system") var linux: LinuxArguments
    @OptionGroup(title: "The built-in guest") var guest: GuestArguments
    @OptionGroup(title: "This host") var host: HostArguments

    /// What file and flags add up to. Standard input can be read once.
    private var merged: RunConfiguration?

    enum CodingKeys: String, CodingKey {
        case name, memory, cpus, file, printConfig, model, linux, guest, host
    }

    mutating func validate() throws {
        let base = try file.map { try RunConfiguration(file: $0) } ?? RunConfiguration()
        let merged = try base.overridden(by: flags(words: base.guestOptions))
        try merged.validate()
        self.merged = merged
    }

    /// What the flags say. `words` are the options of the test guest that the file has.
    private func flags(words: String?) throws -> RunConfiguration {
        var said = RunConfiguration(host: host)
        said.name = name
        said.memory = memory
        said.cpus = cpus
        said.cpu = model.cpu
        said.guest = guest.guest
        said.guestOptions = try guest.commandLine(over: words)
        said.kernel = linux.kernel
        said.initrd = linux.initrd
        said.append = linux.append
        said.disks = linux.disks
        said.networks = linux.networks
        said.rng = linux.rng
        said.balloon = linux.balloon
        said.console = linux.console
        return said
    }

    func run() throws {
        guard let merged, let name = merged.name else { throw CommandError(.usage, "A VM needs a name.") }
        if printConfig { return try Output.write(merged.yaml) }
        let cpu = try CPUChoice.model(merged.cpu ?? "host")
        let settings = HostSettings(merged, kvmPath: host.kvmPath)
        let starter = try VMStarter(
            name: VMName(name), host: settings, guestName: merged.kernel == nil ? GuestKind.selftest.rawValue : "linux")
        let machine: Machine
        do {
            machine = try starter.makeMachine { options in
                try Machine(
                    MachineOptions(
                        name: name, memory: merged.memory ?? RunConfiguration.defaultMemory,
                        vcpuCount: merged.cpus ?? 1, cpu: cpu, guest: try Self.image(merged),
                        devices: merged.devices, host: options),
                    logger: settings.logger)
            }
        } catch {
            starter.abandon()
            throw error
        }
        let status = try starter.run(machine)
        guard status == .success else { throw CommandError(status, "") }
    }

    private static func image(_ configuration: RunConfiguration) throws -> GuestImage {
        guard let kernel = configuration.kernel else {
            return .selftest(
                commandLine: try configuration.guestOptions ?? GuestArguments.commandLine(words: ""))
        }
        return .linux(kernel: kernel, initrd: configuration.initrd, commandLine: configuration.append ?? "")
    }
}
