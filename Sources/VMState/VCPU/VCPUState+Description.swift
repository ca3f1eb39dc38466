/// A vCPU's state for people.

import StateSchema
import SwiftProtobuf

extension VCPUState {
    /// Every field of the section, in the schema's order.
    public var stateDescription: StateDescription {
        var rows = StateDescription()
        rows.add("general", wire.general.stateDescription)
        rows.add("system", wire.system.stateDescription)
        rows.add("debug", wire.debug.stateDescription)
        rows.add("events", wire.events.stateDescription)
        rows.add("mpState", mpStateName)
        rows.add("tsc.frequency", "\(wire.tsc.khz) kHz")
        rows.add("tsc.offset", wire.tsc.hasOffset ? "\(wire.tsc.offset)" : "unknown")
        for xcr in wire.xcrs { rows.add(hex: "xcr\(xcr.number)", xcr.value) }
        for msr in wire.msrs { rows.add(hex: "msr.\(MSRNames.describe(msr.index))", msr.value) }
        for index in wire.unreadableMsrs { rows.add("unreadableMSR.\(MSRNames.describe(index))", "not carried") }
        rows.add(bytes: "lapic", [UInt8](wire.lapic))
        rows.add(bytes: "xsave", [UInt8](wire.xsave))
        rows.add(unknown: wire.unknownFields.data.count)
        return rows
    }

    private var mpStateName: String {
        let names: [UInt32: String] = [
            0: "runnable", 1: "uninitialised", 2: "INIT received", 3: "halted", 4: "SIPI received",
            9: "AP reset hold",
        ]
        return names[wire.mpState] ?? "\(wire.mpState)"
    }
}

extension WireGeneralRegisters {
    fileprivate var stateDescription: StateDescription {
        var rows = StateDescription()
        let values: [(String, UInt64)] = [
            ("rax", rax), ("rbx", rbx), ("rcx", rcx), ("rdx", rdx), ("rsi", rsi), ("rdi", rdi), ("rsp", rsp),
            ("rbp", rbp), ("r8", r8), ("r9", r9), ("r10", r10), ("r11", r11), ("r12", r12), ("r13", r13),
            ("r14", r14), ("r15", r15), ("rip", rip), ("rflags", rflags),
        ]
        for (name, value) in values { rows.add(hex: name, value) }
        return rows
    }
}

extension WireSystemRegisters {
    fileprivate var stateDescription: StateDescription {
        var rows = StateDescription()
        for (name, segment) in segments { rows.add(name, segment.stateDescription) }
        for (name, table) in [("gdt", gdt), ("idt", idt)] {
            rows.add(hex: "\(name).base", table.base)
            rows.add(hex: "\(name).limit", table.limit)
        }
        let values = [
            ("cr0", cr0), ("cr2", cr2), ("cr3", cr3), ("cr4", cr4), ("cr8", cr8), ("efer", efer),
            ("apicBase", apicBase),
        ]
        for (name, value) in values { rows.add(hex: name, value) }
        for (number, value) in pdptrs.enumerated() { rows.add(hex: "pdptr\(number)", value) }
        return rows
    }
}

extension WireSegment {
    fileprivate var stateDescription: StateDescription {
        var rows = StateDescription()
        rows.add(hex: "base", base)
        rows.add(hex: "limit", limit)
        rows.add(hex: "selector", selector)
        rows.add(hex: "type", type)
        rows.add("dpl", "\(dpl)")
        let flags = [("p", present), ("db", db), ("s", s), ("l", l), ("g", g), ("avl", avl), ("unusable", unusable)]
        rows.add("flags", flags.filter { $0.1 }.map { $0.0 }.joined(separator: " "))
        return rows
    }
}

extension WireDebugRegisters {
    fileprivate var stateDescription: StateDescription {
        var rows = StateDescription()
        for (name, value) in [("dr0", dr0), ("dr1", dr1), ("dr2", dr2), ("dr3", dr3), ("dr6", dr6), ("dr7", dr7)] {
            rows.add(hex: name, value)
        }
        return rows
    }
}

extension WireEvents {
    fileprivate var stateDescription: StateDescription {
        var rows = StateDescription()
        rows.add(flag: "exception.injected", exceptionInjected)
        rows.add(flag: "exception.pending", exceptionPending)
        rows.add("exception.vector", "\(exceptionVector)")
        rows.add(flag: "exception.hasErrorCode", exceptionHasErrorCode)
        rows.add(hex: "exception.errorCode", exceptionErrorCode)
        rows.add(flag: "exception.hasPayload", exceptionHasPayload)
        rows.add(hex: "exception.payload", exceptionPayload)
        rows.add(flag: "interrupt.injected", interruptInjected)
        rows.add("interrupt.vector", "\(interruptVector)")
        rows.add(flag: "interrupt.soft", interruptSoft)
        rows.add("interrupt.shadow", "\(interruptShadow)")
        rows.add(flag: "nmi.injected", nmiInjected)
        rows.add("nmi.pending", "\(nmiPending)")
        rows.add(flag: "nmi.masked", nmiMasked)
        rows.add("sipiVector", "\(sipiVector)")
        rows.add(hex: "validFlags", validFlags)
        rows.add(flag: "smm.active", smm)
        rows.add(flag: "smm.pending", smiPending)
        rows.add(flag: "smm.insideNMI", smmInsideNmi)
        rows.add(flag: "initLatched", initLatched)
        rows.add(flag: "tripleFaultPending", tripleFaultPending)
        return rows
    }
}
