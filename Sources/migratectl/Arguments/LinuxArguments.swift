/// The guest operating system, and the virtio devices that it finds.

import ArgumentParser
import Machine

/// Where the VM's console is: what `migratectl console` and `--serial stdio` are connected to.
enum ConsoleKind: String, ExpressibleByArgument, CaseIterable {
    /// The serial port, ttyS0: there from the kernel's first line on, an exit for each character.
    case serial
    /// A virtio console, hvc0.
    case virtio
}

struct LinuxArguments: ParsableArguments {
    @Option(
        help: ArgumentHelp("Boot this Linux kernel: a bzImage, or an ELF vmlinux with a PVH entry.", valueName: "file"),
        completion: .file())
    var kernel: String?

    @Option(help: ArgumentHelp("The initial RAM disk that the kernel unpacks.", valueName: "file"), completion: .file())
    var initrd: String?

    @Option(
        help: ArgumentHelp(
            "The kernel's command line, such as \"console=ttyS0 root=/dev/vda\".", valueName: "words"))
    var append: String?

    @Option(
        name: .customLong("disk"),
        help: ArgumentHelp(
            "A disk: a raw image or block device. Once for each: FILE[,ro][,serial=TEXT].", valueName: "disk"),
        transform: DiskOptions.init(text:))
    var disks: [DiskOptions] = []

    @Option(
        name: .customLong("net"),
        help: ArgumentHelp(
            "A network card on a tap interface that exists. Once for each: tap=NAME[,mac=ADDRESS].", valueName: "card"),
        transform: NetworkOptions.init(text:))
    var networks: [NetworkOptions] = []

    @Flag(inversion: .prefixedNo, help: "A source of random numbers.")
    var rng: Bool?

    @Flag(inversion: .prefixedNo, help: "A balloon: the guest tells which memory it does not use.")
    var balloon: Bool?

    @Option(help: "The VM's console: serial (ttyS0), or virtio (hvc0, much faster).")
    var console: ConsoleKind?
}
