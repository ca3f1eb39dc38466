/// The XSAVE area, the extended control registers and the LAPIC's page: the parts that are blocks of bytes.

import CKVM
import KVM
import StateSchema

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// The legacy area (512 bytes) and the XSAVE header behind it (64).
private let xsaveHeaderOffset = 512
private let xsaveHeaderEnd = 576
/// Room for every component that CPUs have (AMX needs 11 KiB).
private let maximumXSaveByteCount = 64 << 10

extension WireVCPU {
    func checkXSave(_ checker: WireChecker) throws(StateError) {
        try checker.require(
            xsave.count >= xsaveHeaderEnd && xsave.count <= maximumXSaveByteCount, "xsave size",
            "\(xsave.count) bytes")
        // XCOMP_BV and the reserved rest of the header: not zero only in the compacted format, which KVM does not make.
        let header = xsave.dropFirst(xsaveHeaderOffset + 8).prefix(xsaveHeaderEnd - xsaveHeaderOffset - 8)
        try checker.require(header.allSatisfy { $0 == 0 }, "xsave header", StateDescription.hexBytes(header))
    }
}

extension VCPUState {
    /// The source's area may be longer or shorter than this host's: only what is not zero must fit.
    func restoreXSave(into vcpu: VCPU) throws(StateError) {
        var bytes = [UInt8](wire.xsave)
        if bytes.count > vcpu.xsaveByteCount {
            guard bytes[vcpu.xsaveByteCount...].allSatisfy({ $0 == 0 }) else {
                throw StateError(
                    .incompatibleHost,
                    "vcpu \(vcpu.index) has \(bytes.count) bytes of xsave state, this host takes \(vcpu.xsaveByteCount)"
                )
            }
            bytes.removeLast(bytes.count - vcpu.xsaveByteCount)
        }
        try restoring("floating point state", vcpu) { () throws(KVMError) in try vcpu.setXSave(bytes) }
    }
}

extension WireXCR {
    static func list(kernelValue all: kvm_xcrs) -> [WireXCR] {
        let entries = unsafe withUnsafeBytes(of: all.xcrs) { unsafe Array($0.bindMemory(to: kvm_xcr.self)) }
        return entries.prefix(Int(min(all.nr_xcrs, UInt32(KVM_MAX_XCRS)))).map { entry in
            var wire = WireXCR()
            (wire.number, wire.value) = (entry.xcr, entry.value)
            return wire
        }
    }

    /// Of checked registers.
    static func kernelValue(_ list: [WireXCR]) -> kvm_xcrs {
        var all = kvm_xcrs()
        all.nr_xcrs = UInt32(list.count)
        unsafe withUnsafeMutableBytes(of: &all.xcrs) { place in
            let entries = unsafe place.bindMemory(to: kvm_xcr.self)
            for (index, wire) in list.enumerated() where entries.indices.contains(index) {
                unsafe entries[index] = kvm_xcr(xcr: wire.number, reserved: 0, value: wire.value)
            }
        }
        return all
    }

    /// XCR0 is the only one that KVM sets; it passes over others in silence.
    static func check(_ list: [WireXCR], _ checker: WireChecker) throws(StateError) {
        try checker.count(list.count, atMost: 1, "xcrs")
        if let xcr = list.first { try checker.require(xcr.number == 0, "xcr number", "\(xcr.number)") }
    }
}

let lapicByteCount = Int(KVM_APIC_REG_SIZE)

func lapicData(kernelValue state: kvm_lapic_state) -> Data {
    unsafe withUnsafeBytes(of: state.regs) { unsafe Data($0) }
}

/// Of a page whose size was checked.
func lapicState(_ data: Data) -> kvm_lapic_state {
    var state = kvm_lapic_state()
    unsafe withUnsafeMutableBytes(of: &state.regs) { place in
        for (index, byte) in data.enumerated() where index < place.count { unsafe place[index] = byte }
    }
    return state
}

func bytesToData(_ bytes: [UInt8]) -> Data { Data(bytes) }
