/// The ACPI tables of a machine: what it has that a kernel cannot find out by itself.

import Units

/// What the tables describe. The same machine has the same tables, byte by byte.
package struct ACPITables: Equatable, Sendable {
    package var vcpuCount: Int
    /// Slots for virtio devices that hold one.
    package var virtioSlots: [Int]

    package init(vcpuCount: Int, virtioSlots: [Int]) {
        self.vcpuCount = vcpuCount
        self.virtioSlots = virtioSlots
    }

    /// Where the RSDP lies: kernels that were not told look for it on 16-byte boundaries from here to 1 MiB.
    package static let start = LowMemory.firmware.lowerBound

    private enum InterruptController {
        static let ioapic: UInt32 = 0xFEC0_0000
        static let lapic: UInt32 = 0xFEE0_0000
    }

    /// All tables, each at its address. The first one is the RSDP.
    package func placed() -> [(address: UInt64, bytes: [UInt8])] {
        let facs = Self.start + 64
        var next = facs + 64
        var placed = [(address: facs, bytes: Self.sharedWithFirmware)]
        func place(_ table: ACPITable) -> UInt64 {
            let address = next
            placed.append((address, table.bytes))
            next += (UInt64(table.bytes.count) + 15) & ~15
            return address
        }
        let dsdt = place(differentiated)
        let fadt = place(fixed(dsdt: dsdt, facs: facs))
        let madt = place(interruptControllers)
        let list = place(.list([fadt, madt]))
        precondition(next <= LowMemory.generationPage)
        return [(Self.start, ACPITable.rootPointer(xsdt: list))] + placed
    }

    // MARK: DSDT

    package var differentiated: ACPITable {
        var devices: [AML] = [
            .device(
                "COM1",
                [
                    .name("_HID", .eisaID("PNP0501")), .name("_UID", .integer(0)),
                    .resources([.ports(0x3F8...0x3FF), .isaInterrupt(4)]),
                ]),
            .device(
                "RTC0",
                [
                    .name("_HID", .eisaID("PNP0B00")),
                    .resources([.ports(RealTimeClock.ports), .isaInterrupt(RealTimeClock.line)]),
                ]),
            // The ports of power management are nobody else's.
            .device(
                "PMRS",
                [
                    .name("_HID", .eisaID("PNP0C02")), .name("_UID", .integer(0)),
                    .resources([
                        .ports(PowerController.eventPorts), .ports(PowerController.controlPorts),
                        .ports(PowerController.generalEventPorts),
                    ]),
                ]),
            // Microsoft's "Virtual Machine Generation ID".
            .device(
                "VGEN",
                [
                    .name("_HID", .string("MIGR0001")), .name("_CID", .string("VM_Gen_Counter")),
                    .name("_DDN", .string("VM_Gen_Counter")),
                    .name(
                        "ADDR",
                        .package([
                            .integer(GenerationID.address & 0xFFFF_FFFF), .integer(GenerationID.address >> 32),
                        ])),
                ]),
        ]
        for slot in virtioSlots {
            devices.append(
                .device(
                    "VR0\(slot)",
                    [
                        .name("_HID", .string("LNRO0005")), .name("_UID", .integer(UInt64(slot))),
                        .name("_CCA", .integer(1)),
                        .resources([
                            .memory(
                                start: UInt32(VirtioSlot.address(slot)), byteCount: UInt32(VirtioSlot.byteCount)),
                            .levelInterrupt(UInt32(VirtioSlot.line(slot))),
                        ]),
                    ]))
        }
        let softOff = UInt64(PowerController.softOff)
        let terms = AML([
            .scope("\\_SB", devices),
            // What PM1 control is told for soft-off.
            .name(
                "\\_S5",
                .package([.integer(softOff), .integer(softOff), .integer(0), .integer(0)])),
            // Edge-triggered: the status is cleared before the method runs.
            .scope("\\_GPE", [.method("_E0\(PowerController.generationEvent)", [.notify("\\_SB.VGEN", 0x80)])]),
        ])
        return ACPITable(signature: "DSDT", revision: 2, body: terms.bytes)
    }

    // MARK: FADT

    /// Section 5.2.9. Classic fixed hardware: a machine with PICs, PIT and ports is a PC, and kernels then use those.
    package func fixed(dsdt: UInt64, facs: UInt64) -> ACPITable {
        let ports = (
            event: PowerController.eventPorts, control: PowerController.controlPorts,
            general: PowerController.generalEventPorts
        )
        var body: [UInt8] = []
        body.append(UInt32(clamping: facs))
        body.append(UInt32(clamping: dsdt))
        body += [0, 0]  // reserved; no preferred profile
        body.append(UInt16(PowerController.line))
        body.append(UInt32(0))  // no SMI: ACPI is always on
        body += [0, 0, 0, 0]
        body.append(UInt32(ports.event.lowerBound))
        body.append(UInt32(0))
        body.append(UInt32(ports.control.lowerBound))
        body.append(UInt32(0))
        body.append(UInt32(0))
        body.append(UInt32(0))  // no power management timer
        body.append(UInt32(ports.general.lowerBound))
        body.append(UInt32(0))
        body += [UInt8(ports.event.count), UInt8(ports.control.count), 0, 0, UInt8(ports.general.count), 0, 0, 0]
        body.append(UInt16(0xFFFF))  // no C2
        body.append(UInt16(0xFFFF))  // no C3
        body.append(UInt16(0))
        body.append(UInt16(0))
        body += [0, 0, 0, 0, RealTimeClock.centuryRegister]
        body.append(UInt16(0x0005))  // there are ISA devices, no keyboard controller, no VGA
        body.append(UInt8(0))
        body.append(Flag.all)
        body.append(ports: PowerController.resetPort...PowerController.resetPort)
        body.append(PowerController.resetValue)
        body.append(UInt16(0))
        body.append(UInt8(3))  // FADT 6.3
        body.append(UInt64(0))  // the FACS is below 4 GiB
        body.append(dsdt)
        body.append(ports: ports.event)
        body.append(ports: nil)
        body.append(ports: ports.control)
        for _ in 0..<3 { body.append(ports: nil) }
        body.append(ports: ports.general)
        for _ in 0..<3 { body.append(ports: nil) }
        body += Array("MIGRATEC".utf8)  // hypervisor vendor
        return ACPITable(signature: "FACP", revision: 6, body: body)
    }

    private enum Flag {
        /// WBINVD works.
        static let writeBack: UInt32 = 1 << 0
        /// C1 on every processor.
        static let haltEverywhere: UInt32 = 1 << 2
        /// No fixed power button, no fixed sleep button, no wake by the clock.
        static let noButtons: UInt32 = 1 << 4 | 1 << 5 | 1 << 6
        static let hasResetRegister: UInt32 = 1 << 10
        static let all = writeBack | haltEverywhere | noButtons | hasResetRegister
    }

    /// FACS, section 5.2.10: a lock that only the guest takes, as there is no firmware. It has no checksum.
    private static var sharedWithFirmware: [UInt8] {
        var bytes = Array("FACS".utf8)
        bytes.append(UInt32(64))
        bytes += [UInt8](repeating: 0, count: 56)
        bytes[32] = 2  // version
        return bytes
    }

    // MARK: MADT

    /// Section 5.2.12.
    package var interruptControllers: ACPITable {
        var body: [UInt8] = []
        body.append(InterruptController.lapic)
        body.append(UInt32(1))  // there are PICs as well
        for index in 0..<vcpuCount {
            body += [0, 8, UInt8(truncatingIfNeeded: index), UInt8(truncatingIfNeeded: index)]
            body.append(UInt32(1))  // enabled
        }
        body += [1, 12, 0, 0]
        body.append(InterruptController.ioapic)
        body.append(UInt32(0))
        // KVM's lines are where ISA has them, the PIT's too; only the SCI is not as ISA interrupts are: level, active high.
        body += [2, 10, 0, UInt8(PowerController.line)]
        body.append(UInt32(PowerController.line))
        body.append(UInt16(0x000D))
        // The NMI comes in at LINT1 of each.
        body += [4, 6, 0xFF, 0, 0, 1]
        return ACPITable(signature: "APIC", revision: 5, body: body)
    }
}

extension GuestRAM {
    func write(_ tables: ACPITables) throws(MachineError) {
        for table in tables.placed() { try write(table.bytes, at: GuestAddress(table.address)) }
    }
}
