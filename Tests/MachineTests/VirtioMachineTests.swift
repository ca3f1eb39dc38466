/// Machines with virtio devices: what they need on a host, and what another host must have.

import Glibc
import KVM
import Machine
import Migrate
import Testing
import Units
import Virtio

@Suite(.enabled(if: hasKVM, noKVM))
struct VirtioMachineTests {
    private let kernel = TemporaryFile(TestBZImage().bytes)

    private func make(_ devices: [VirtualDevice]) throws -> Machine {
        try Machine(
            MachineOptions(
                name: "virtio", memory: ByteCount(rawValue: 16 << 20),
                guest: .linux(kernel: kernel.path, initrd: nil, commandLine: ""), devices: devices))
    }

    private func disk(_ byteCount: Int = 1 << 20) -> TemporaryFile {
        TemporaryFile([UInt8](repeating: 0, count: byteCount))
    }

    private func reason(
        _ configuration: MachineConfiguration, host: HostOptions = HostOptions(opensWhatSourceNames: true)
    ) -> String {
        do {
            _ = try LocalMachineBuilder(host: host).makeMachine(for: configuration)
            return ""
        } catch {
            return "\(error)"
        }
    }

    @Test func devicesComeInTheOrderOfTheirSlots() throws {
        let (a, b) = (disk(), disk())
        defer { withExtendedLifetime((a, b)) {} }
        let machine = try make([
            .disk(path: a.path), .entropy, .disk(path: b.path, isReadOnly: true), .balloon, .console,
        ])
        #expect(
            machine.configuration.devices.map(\.name).suffix(5) == [
                "block.0", "rng.0", "block.1", "balloon.0", "console.0",
            ])
        // Their state goes where the machine goes.
        try machine.releaseDisks()
        let copy = try LocalMachineBuilder(host: HostOptions(opensWhatSourceNames: true))
            .makeLocalMachine(for: machine.configuration)
        try copy.restoreState(try machine.captureState())
        try copy.lockDisks()
        #expect(throws: MachineError.self) { try machine.lockDisks() }
        try copy.releaseDisks()
        try machine.lockDisks()
    }

    @Test func disksAreLocked() throws {
        let image = disk()
        defer { withExtendedLifetime(image) {} }
        let first = try make([.disk(path: image.path)])
        #expect(throws: MachineError.self) { try make([.disk(path: image.path)]) }
        #expect(throws: MachineError.self) { try make([.disk(path: image.path, isReadOnly: true)]) }
        first.stop()
        withExtendedLifetime(first) {}
    }

    @Test func readersShareADisk() throws {
        let image = disk()
        defer { withExtendedLifetime(image) {} }
        let first = try make([.disk(path: image.path, isReadOnly: true)])
        let second = try make([.disk(path: image.path, isReadOnly: true)])
        #expect(throws: MachineError.self) { try make([.disk(path: image.path)]) }
        withExtendedLifetime((first, second)) {}
    }

    @Test func whatIsMissingIsNamed() throws {
        let image = disk()
        defer { withExtendedLifetime(image) {} }
        func refusal(_ devices: [VirtualDevice]) -> String {
            do {
                _ = try make(devices)
                return ""
            } catch {
                return "\(error)"
            }
        }
        #expect(refusal([.disk(path: "/nowhere/disk")]).contains("/nowhere/disk"))
        #expect(refusal([.disk(path: "/dev/null")]).contains("/dev/null"))
        #expect(refusal([.disk(path: image.path), .disk(path: image.path)]).contains("same disk"))
        #expect(refusal(Array(repeating: .entropy, count: 9)).contains("8"))
        let mac = try #require(VirtualDevice.randomMAC())
        #expect(refusal([.network(tap: "nosuchtap0", mac: mac)]).contains("nosuchtap0"))
    }

    @Test func aDestinationNeedsTheDisk() throws {
        let (image, short) = (disk(), disk(512 << 10))
        let directory = "/tmp"
        defer { withExtendedLifetime((image, short)) {} }
        let machine = try make([.disk(path: image.path), .entropy])
        let configuration = machine.configuration
        func at(_ path: String, number: Int = 0) -> String {
            reason(configuration, host: HostOptions(diskPaths: [number: path]))
        }
        #expect(reason(configuration) == "")
        // A path on the wire is a stranger's word for a file here.
        let unnamed = reason(configuration, host: HostOptions())
        #expect(unnamed.contains("nobody said where disk 0 is") && unnamed.contains(image.path))
        #expect(at(image.path) == "")
        #expect(at("/nowhere/disk").contains("/nowhere/disk"))
        #expect(at(directory).contains(directory))
        #expect(at(short.path).contains("524288 bytes") && at(short.path).contains("1048576"))
        #expect(at(image.path, number: 1).contains("no disk 1"))
        #expect(reason(configuration, host: HostOptions(tapNames: [0: "t"])).contains("no network card 0"))
        withExtendedLifetime(machine) {}
    }

    @Test func settingsFromAStrangerAreChecked() throws {
        let image = disk()
        defer { withExtendedLifetime(image) {} }
        let good = try make([.disk(path: image.path), .entropy, .balloon]).configuration
        let first = try #require(good.devices.firstIndex { $0.name == "block.0" })
        func check(_ expected: String, _ change: (inout MachineConfiguration) -> Void) {
            var configuration = good
            change(&configuration)
            let text = reason(configuration)
            #expect(text.contains(expected), "\(text)")
        }
        check("block.0") { $0.devices[first].settings = [] }
        check("block.0") { $0.devices[first].settings = [0xFF, 0xFF] }
        check("block.0") { $0.devices[first].settings = [UInt8](repeating: 0, count: 4096) }
        check("rng.0") { $0.devices[first].settings = $0.devices[first + 1].settings }
        check("block.1") { $0.devices[first].name = "block.1" }
        check("version 9") { $0.devices[first].version = 9 }
        check("room for 8") { configuration in
            let entropy = configuration.devices[first + 1]
            for number in 1..<9 {
                var more = entropy
                more.name = "rng.\(number)"
                configuration.devices.append(more)
            }
        }
        check("needs acpi.0") { $0.devices.removeAll { $0.name == "acpi.0" } }
        // Bytes at random are refused or are a device; nothing traps.
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<200 {
            var configuration = good
            var settings = configuration.devices[first].settings
            settings[Int.random(in: 0..<settings.count, using: &generator)] ^= UInt8.random(
                in: 1...255, using: &generator)
            configuration.devices[first].settings = settings
            _ = reason(configuration)
        }
    }
}
