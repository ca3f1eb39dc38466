import Foundation
import Testing

/// The configuration file of `run`, and what it and the flags add up to.
@Suite(.timeLimit(.minutes(2))) struct ConfigurationTests {
    private let tool: Tool
    private let file: String

    init() throws {
        tool = try Tool()
        file = tool.directory + "/vm.yaml"
    }

    private func print(_ yaml: String, _ flags: String...) throws -> Tool.Result {
        try yaml.write(toFile: file, atomically: true, encoding: .utf8)
        return try tool.start(["run", "--config", file, "--print-config"] + flags).wait()
    }

    private static let whole = """
        # everything
        name: web1
        memory: 512M
        cpus: 2
        cpu: x86-64-v2
        kernel: /boot/vmlinuz
        initrd: /boot/initrd.img
        append: "console=hvc0 root=/dev/vda"
        disks:
          - path: /srv/root.img
            serial: root
          - {path: /srv/cd.iso, read-only: true}
        networks:
          - tap: tap0
            mac: 52:54:00:12:34:56
        rng: true
        balloon: true
        console: virtio
        serial: none
        memory-backing: memfd
        dirty-tracker: ring
        report: /tmp/report.json
        log-level: info
        """

    @Test func printsWhatItRead() throws {
        let once = try print(Self.whole)
        #expect(once.status == 0, "\(once)")
        for line in [
            "name: \"web1\"", "memory: 512M", "cpus: 2", "cpu: \"x86-64-v2\"", "kernel: \"/boot/vmlinuz\"",
            "append: \"console=hvc0 root=/dev/vda\"", "  - path: \"/srv/root.img\"", "    serial: \"root\"",
            "    read-only: true", "  - tap: \"tap0\"", "    mac: \"52:54:00:12:34:56\"", "rng: true", "balloon: true",
            "console: virtio", "serial: none", "memory-backing: memfd", "dirty-tracker: ring", "log-level: info",
        ] {
            #expect(once.output.split(separator: "\n").contains { $0 == line }, "\(line) in \(once.output)")
        }
        // What it prints says the same again.
        #expect(try print(once.output).output == once.output)
    }

    @Test func flagsSayTheSameAndOverride() throws {
        let flags = try tool.run(
            "run", "--name", "web1", "--memory", "512M", "--cpus", "2", "--cpu", "x86-64-v2", "--kernel",
            "/boot/vmlinuz", "--initrd", "/boot/initrd.img", "--append", "console=hvc0 root=/dev/vda", "--disk",
            "/srv/root.img,serial=root", "--disk", "/srv/cd.iso,ro", "--net", "tap=tap0,mac=52:54:00:12:34:56", "--rng",
            "--balloon", "--console", "virtio", "--serial", "none", "--memory-backing", "memfd", "--dirty-tracker",
            "ring", "--report", "/tmp/report.json", "--log-level", "info", "--print-config")
        #expect(flags.status == 0, "\(flags)")
        #expect(try print(Self.whole).output == flags.output)
        let other = try print(Self.whole, "--cpus", "7", "--disk", "/other.img", "--no-rng").output
        #expect(other.contains("cpus: 7\n") && other.contains("/other.img") && !other.contains("/srv/root.img"))
        #expect(other.contains("rng: false") && other.contains("memory: 512M"))
    }

    @Test func theTestGuestsWordsGoThrough() throws {
        let result = try print("name: a\nguest: selftest\nguest-options: rate=5 seed=7\n", "--rate", "100")
        #expect(result.output.contains("rate=100") && result.output.contains("seed=7"), "\(result)")
    }

    @Test(arguments: [
        ("naem: x", "line 1", "naem"), ("name: a\ncpus: two", "line 2", "cpus"),
        ("name: a\ncpus: [1]", "line 2", "cpus"),
        ("name: a\n\nmemory: lots", "line 3", "memory"), ("name: a\nmemory:", "line 2", "memory"),
        ("name: [a]", "line 1", "name"), ("name: a\nrng: perhaps", "line 2", "rng"),
        ("name: a\nconsole: tv", "line 2", "console"), ("name: a\nserial: tv", "line 2", "serial"),
        ("name: a\ndisks: x", "line 2", "disks"), ("name: a\nkernel: k\ndisks:\n  - pth: x", "line 4", "pth"),
        ("name: a\nkernel: k\ndisks:\n  - path: [x]", "line 4", "path"),
        ("name: a\nkernel: k\ndisks:\n  - read-only: true", "line 4", "file"),
        ("name: a\nkernel: k\nnetworks:\n  - tap: t\n    mac: 01:00:00:00:00:00", "line 5", "mac"),
        ("name: a\nkernel: k\nnetworks:\n  - tap: averyveryverylongname", "line 4", "tap"),
        ("- name", "line 1", "keys"), ("name: a\nname: b", "name", "duplicated"), ("name: [", "Error", "YAML"),
        ("? [a]\n: b", "line 1", "key"), ("", "Error", "name"), ("name: ../x", "Error", "name"),
        ("name: a\ncpus: 0", "Error", "vCPU"),
        ("name: a\nmemory: 3M", "Error", "memory"),
    ])
    func namesWhatIsWrong(_ yaml: String, _ place: String, _ word: String) throws {
        let result = try print(yaml)
        #expect(result.status == ExitCode.named("usage"), "\(result)")
        #expect(result.output.isEmpty)
        #expect(result.errors.contains(place) && result.errors.contains(word), "\(yaml): \(result.errors)")
    }

    @Test(arguments: [
        ["--guest", "selftest", "--kernel", "k"], ["--kernel", "k", "--rate", "5"], ["--initrd", "i"],
        ["--append", "x"], ["--disk", "d"], ["--net", "tap=t"], ["--rng"], ["--balloon"], ["--console", "virtio"],
        ["--kernel", "k", "--disk", "d,rw"], ["--kernel", "k", "--disk", ""], ["--kernel", "k", "--net", "t"],
        ["--kernel", "k", "--disk", "d", "--disk", "d"], ["--kernel", "k", "--net", "tap=t,mac=5"],
        ["--kernel", "k", "--disk", "d,serial=" + String(repeating: "x", count: 21)],
        ["--kernel", "k"] + (0..<9).flatMap { ["--disk", "d\($0)"] },
    ])
    func refusesContradictions(_ flags: [String]) throws {
        let result = try tool.start(["run", "--name", "a", "--print-config"] + flags).wait()
        #expect(result.status == ExitCode.named("usage"), "\(result)")
        #expect(result.errors.contains("Error: ") && result.output.isEmpty)
    }

    @Test func refusesFilesThatAreNoConfiguration() throws {
        #expect(try tool.run("run", "--config", "/nowhere.yaml").errors.contains("/nowhere.yaml"))
        #expect(try tool.run("run", "--config", tool.directory).status == ExitCode.named("usage"))
        try Data([0x6E, 0xFF, 0xFE, 0x00]).write(to: URL(filePath: file))
        #expect(try tool.run("run", "--config", file).errors.contains("UTF-8"))
        try String(repeating: "#", count: 100_000).write(toFile: file, atomically: true, encoding: .utf8)
        #expect(try tool.run("run", "--config", file).errors.contains("64 KiB"))
        // Deep nesting exhausts nothing.
        #expect(try print(String(repeating: "[", count: 60_000)).status == ExitCode.named("usage"))
    }

    @Test func aKernelThatIsNoneIsNamed() throws {
        try #require(access("/dev/kvm", R_OK | W_OK) == 0, "no usable /dev/kvm on this host")
        let result = try tool.run("run", "--name", "a", "--kernel", "/etc/passwd")
        #expect(result.status == ExitCode.named("failure"), "\(result)")
        #expect(result.errors.contains("/etc/passwd cannot be booted"))
        #expect(try tool.run("run", "--name", "a", "--kernel", "/nowhere").errors.contains("/nowhere"))
    }
}
