/// What `/dev/kvm` offers.

import CKVM
import Glibc
import KVM

extension HostProbe {
    /// A capability that this project uses, and what its absence means.
    private struct Wanted {
        var capability: Capability
        var isNeeded: Bool
        var cost: String
        var remedy: String

        init(_ capability: Capability, needed: Bool = false, _ cost: String, _ remedy: String = "a newer kernel") {
            self.capability = capability
            self.isNeeded = needed
            self.cost = cost
            self.remedy = remedy
        }
    }

    private static let wanted: [Wanted] = [
        Wanted(.userMemory, needed: true, "no guest RAM"),
        Wanted(.irqchip, needed: true, "no interrupt controllers in the kernel"),
        Wanted(.pit2, needed: true, "no PIT"),
        Wanted(.pitState2, needed: true, "the PIT cannot be moved"),
        Wanted(.mpState, needed: true, "halted and starting vCPUs cannot be moved"),
        Wanted(.vcpuEvents, needed: true, "pending exceptions and interrupts are lost in a move"),
        Wanted(.debugRegisters, needed: true, "debug registers are lost in a move"),
        Wanted(.xsave, needed: true, "the vector registers cannot be moved"),
        Wanted(.xcrs, needed: true, "the vector registers cannot be moved"),
        Wanted(.adjustClock, needed: true, "the guest's clock cannot be moved"),
        Wanted(.immediateExit, needed: true, "a vCPU cannot be stopped without a race", "Linux 4.13 or newer"),
        Wanted(.sregs2, "PAE page-table pointers are read again from memory after a move", "Linux 5.14 or newer"),
        Wanted(.xsave2, "AMX and other large vector state cannot be moved", "Linux 5.17 or newer"),
        Wanted(
            .manualDirtyLogProtect, "the bitmap is cleared for all of memory at once: each round stalls the guest",
            "Linux 5.2 or newer"),
        Wanted(.dirtyRing, "no --dirty-tracker ring", "Linux 5.11 or newer"),
        Wanted(.dirtyRingAcquireRelease, "the ring is used in its older form", "Linux 6.1 or newer"),
        Wanted(.tscControl, "a guest moves only to hosts with the same TSC frequency", "a CPU with TSC scaling"),
        Wanted(.getTSCKHz, "the guest's TSC frequency cannot be compared before a move"),
        Wanted(.vcpuAttributes, "the guest's TSC cannot be set exactly after a move", "Linux 5.16 or newer"),
        Wanted(.tscDeadlineTimer, "guests use the slower LAPIC timer"),
        Wanted(.kvmclockControl, "Linux guests may report soft lockups after a long pause"),
        Wanted(.signalMSI, "devices raise interrupts through pins"),
        Wanted(.irqfd, "interrupts cost a system call each"),
        Wanted(.ioeventfd, "notifying a device stops the vCPU"),
        Wanted(.preFaultMemory, "a received VM pays for its first touches of memory", "Linux 6.11 or newer"),
    ]

    func kvm() -> HostReport.Section {
        var findings: [HostReport.Finding] = [module()]
        let system: KVMSystem
        do throws(KVMError) {
            system = try KVMSystem(path: kvmPath)
        } catch {
            findings.append(cannotOpen(error))
            return HostReport.Section(title: "KVM", findings: findings)
        }
        findings.append(HostReport.Finding(kvmPath, .good, "can be opened"))
        findings.append(
            HostReport.Finding("API version", .good, (try? system.apiVersion()).map { "\($0)" } ?? "unknown"))
        do throws(KVMError) {
            _ = try system.makeVM()
            findings.append(HostReport.Finding("KVM_CREATE_VM", .good, "works"))
        } catch {
            findings.append(
                HostReport.Finding(
                    "KVM_CREATE_VM", .missing, "\(error)", cost: "no VM runs here",
                    remedy: "look at dmesg: another hypervisor may hold the CPU's virtualisation"))
        }
        if let most = try? system.check(.maxVCPUs) {
            findings.append(HostReport.Finding("vCPUs a VM may have", .note, "\(most)"))
        }
        findings += Self.wanted.map { finding($0, system) }
        return HostReport.Section(title: "KVM", findings: findings)
    }

    private func finding(_ wanted: Wanted, _ system: KVMSystem) -> HostReport.Finding {
        let value = (try? system.check(wanted.capability)) ?? 0
        guard value > 0 else {
            return HostReport.Finding(
                wanted.capability.name, wanted.isNeeded ? .missing : .poor, "no", cost: wanted.cost,
                remedy: wanted.remedy)
        }
        // What the number means is different for each of them.
        let text =
            switch wanted.capability {
            case .dirtyRing, .dirtyRingAcquireRelease: "up to \(value / 16) entries a vCPU"
            case .xsave2: "\(value) bytes a vCPU"
            case .manualDirtyLogProtect:
                value & 2 != 0 ? "yes, with initially-all-set" : "yes, without initially-all-set"
            case .adjustClock:
                // KVM_CLOCK_REALTIME is bit 2.
                value & 4 != 0 ? "yes, with the wall clock" : "yes, without the wall clock"
            default: "yes"
            }
        return HostReport.Finding(wanted.capability.name, .good, text)
    }

    private func module() -> HostReport.Finding {
        if files.exists("/sys/module/kvm_pvm") {
            return HostReport.Finding(
                "module", .poor, "kvm_pvm (no hardware virtualisation)",
                cost:
                    "guest code in ring 0 is emulated at about 1 us an instruction, so stock kernels do not get through "
                    + "their boot; the guest's TSC is the host's, whatever is set; the test guest works",
                remedy: "a host with VT-x or SVM, or nested virtualisation switched on for this one")
        }
        if files.exists("/sys/module/kvm_intel") { return HostReport.Finding("module", .good, "kvm_intel (VMX)") }
        if files.exists("/sys/module/kvm_amd") { return HostReport.Finding("module", .good, "kvm_amd (SVM)") }
        if files.exists(kvmPath) {
            return HostReport.Finding("module", .note, "built into the kernel, or not visible here")
        }
        let flags = (files.field("flags", in: "/proc/cpuinfo") ?? "").split(separator: " ")
        let canVirtualise = flags.contains("vmx") || flags.contains("svm")
        return HostReport.Finding(
            "module", .missing, "none of kvm_intel, kvm_amd, kvm_pvm is loaded", cost: "no VM runs here",
            remedy: canVirtualise
                ? "modprobe kvm_intel, or modprobe kvm_amd"
                : "switch virtualisation on in the firmware (VT-x, SVM), or nested virtualisation for this VM")
    }

    private func cannotOpen(_ error: KVMError) -> HostReport.Finding {
        let remedy =
            switch error.errno {
            case EACCES, EPERM: "add your user to the group that owns \(kvmPath) (often kvm), or run as root"
            case ENOENT: "load kvm_intel or kvm_amd; in a container, pass \(kvmPath) in"
            case ENODEV, ENXIO: "switch virtualisation on in the firmware, or nested virtualisation for this VM"
            case EBUSY: "another hypervisor holds the CPU's virtualisation: stop it"
            default: "look at dmesg"
            }
        return HostReport.Finding(kvmPath, .missing, "\(error)", cost: "no VM runs here", remedy: remedy)
    }
}
