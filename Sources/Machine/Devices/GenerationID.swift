/// Microsoft's "Virtual Machine Generation ID": 16 random bytes in guest memory that change when the VM becomes another
/// one, so that a guest knows not to use its random numbers, keys and identifiers twice.

import Migrate
import Synchronization
import Units
import VMState

/// The identifier, in a page that the firmware has reserved. A move keeps it: the guest is the same one. A clone or a VM
/// restored from a snapshot gets a new one, by `change`.
package final class GenerationID: Device {
    package static let deviceName = "genid.0"
    package let name = GenerationID.deviceName
    package let version = GenerationState.version

    /// Where the guest finds it. Not at the start of the page: the specification asks for 8-byte alignment, and guests
    /// map the page.
    package static let address = LowMemory.generationPage + 40

    private let identifier = Mutex([UInt8](repeating: 0, count: 16))
    private let ram: GuestRAM
    private let power: PowerController

    init(ram: GuestRAM, power: PowerController) {
        self.ram = ram
        self.power = power
    }

    func realise(on buses: Buses) {}

    /// Gives a machine that has not run yet its first identifier.
    func begin(_ bytes: [UInt8]) throws {
        try ram.write(bytes, at: GuestAddress(Self.address))
        identifier.withLock { $0 = bytes }
    }

    /// Gives the guest a new identifier, and tells it.
    func change(to bytes: [UInt8]) throws {
        try begin(bytes)
        power.raise(PowerController.generationEvent)
    }

    func quiesce() {}
    func unquiesce() {}

    func save() throws -> StateSection {
        let saved = GenerationState(identifier: identifier.withLock { $0 })
        return StateSection(name: name, version: version, bytes: try saved.encoded())
    }

    /// Guest memory has it already.
    func load(_ section: StateSection) throws {
        let saved = try GenerationState(decoding: section.bytes, version: section.version)
        identifier.withLock { $0 = saved.identifier }
    }
}
