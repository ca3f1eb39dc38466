/// The clock of a VM.

import CKVM

extension VirtualMachine {
    /// The VM's clock (`kvmclock`), with the wall clock and TSC it was read at where KVM offers them.
    public func clock() throws(KVMError) -> kvm_clock_data {
        var data = kvm_clock_data()
        try descriptor.control(CKVM_GET_CLOCK, "KVM_GET_CLOCK", with: &data, subject)
        return data
    }

    /// Sets the VM's clock. With KVM_CLOCK_REALTIME in `flags`, KVM adds the wall time that passed since `realtime`.
    public func setClock(_ data: kvm_clock_data) throws(KVMError) {
        var data = data
        try descriptor.control(CKVM_SET_CLOCK, "KVM_SET_CLOCK", with: &data, subject)
    }
}
