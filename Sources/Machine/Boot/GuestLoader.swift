/// What every way to boot has in common.

import KVM

/// Puts a guest into a machine that has not run yet.
protocol GuestLoader {
    /// Writes everything that the guest expects to find.
    func load(into ram: GuestRAM) throws
    /// Sets the first vCPU to where the guest begins.
    func setEntryState(of vcpu: VCPU) throws(KVMError)
}
