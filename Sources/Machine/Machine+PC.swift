/// What a machine has that boots an operating system: firmware's work before the first instruction.

import CKVM
import KVM
import Migrate
import VMState

extension Machine {
    /// IA32_MTRR_DEF_TYPE: all memory is written back. Without it, Linux takes the MTRRs to be off, and the PAT with them.
    private static let memoryTypes: (index: UInt32, value: UInt64) = (0x2FF, 1 << 11 | 6)

    /// Writes the ACPI tables and the first generation identifier, and sets the memory types.
    func beginPC() throws {
        let slots = devices.count { $0 is VirtioAdapter }
        try ram.write(ACPITables(vcpuCount: configuration.vcpuCount, virtioSlots: Array(0..<slots)))
        try generation?.begin(MachineOptions.randomIdentifier())
        var entry = kvm_msr_entry()
        (entry.index, entry.data) = Self.memoryTypes
        for vcpu in group.vcpus { _ = try vcpu.writeMSRs([entry]) }
    }

    /// Tells the guest that it is not the one any more that its memory remembers: for a clone, or a VM restored from a
    /// snapshot. Not for a move. The machine is paused.
    public func changeGeneration() throws {
        try requirePaused("change the generation identifier")
        try generation?.change(to: MachineOptions.randomIdentifier())
    }
}
