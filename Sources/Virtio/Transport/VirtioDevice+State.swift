/// A stopped device as bytes, and back.

import Synchronization
import VMState

extension VirtioDevice {
    /// The device's state, protobuf (docs/state.md). Only after `quiesce`.
    public func save() throws -> [UInt8] {
        try core.work.withLock { work in
            guard !work.isRunning else {
                throw VirtioError(.notNow, "\(name): the state of a running device cannot be taken")
            }
            return try captured(work).encoded()
        }
    }

    private func captured(_ work: DeviceCore.Work) -> VirtioState {
        core.registers.withLock { registers in
            var state = VirtioState()
            state.deviceID = core.backend.deviceID
            state.status = registers.status
            state.interruptStatus = registers.interruptStatus
            state.configGeneration = registers.configGeneration
            state.deviceFeaturesSelect = registers.deviceFeaturesSelect
            state.driverFeaturesSelect = registers.driverFeaturesSelect
            state.driverFeatures = registers.driverFeatures
            state.queueSelect = registers.queueSelect
            for (index, queue) in registers.queues.enumerated() {
                var saved = VirtioState.Queue()
                saved.size = queue.size
                saved.isReady = queue.isReady
                saved.descriptorAddress = queue.descriptors
                saved.driverAddress = queue.driver
                saved.deviceAddress = queue.device
                // Of what was taken, all is answered. Of a device that needs a reset nothing further matters.
                let live = index < work.queues.count ? work.queues[index]?.nextUsed : nil
                saved.nextAvailable = live ?? queue.nextIndex
                saved.nextUsed = saved.nextAvailable
                state.queues.append(saved)
            }
            state.device = core.backend.save(configuration: registers.configuration)
            return state
        }
    }

    /// Puts a saved state into a stopped device, and sets its interrupt line; again, when a move's first attempt came to
    /// nothing. The bytes are not trusted: a state that this device cannot have is refused. Guest memory need not be there
    /// yet; it is looked at after `unquiesce`.
    public func load(_ bytes: [UInt8], version: UInt32) throws {
        let state = try VirtioState(decoding: bytes, version: version)
        try core.work.withLock { work in
            guard !work.isRunning else {
                throw VirtioError(.notNow, "\(name): a device at work takes no state")
            }
            let queues = try checked(state)
            // What an earlier state began has done nothing yet.
            core.stop(&work, isReset: true)
            var configuration = core.backend.configuration
            do throws(VirtioFault) {
                try core.backend.load(state.device, configuration: &configuration)
            } catch {
                throw bad(error.message)
            }
            let (loadedQueues, loadedConfiguration) = (queues, configuration)
            core.registers.withLock { registers in
                registers.status = state.status
                registers.interruptStatus = state.interruptStatus
                registers.configGeneration = state.configGeneration
                registers.deviceFeaturesSelect = state.deviceFeaturesSelect
                registers.driverFeaturesSelect = state.driverFeaturesSelect
                registers.driverFeatures = state.driverFeatures
                registers.queueSelect = state.queueSelect
                registers.queues = loadedQueues
                registers.configuration = loadedConfiguration
                // The controllers remember that the line was high, so that this is no new edge to them.
                core.updateLine(&registers)
            }
            core.start(&work)
        }
    }

    private func bad(_ what: String) -> VirtioError {
        VirtioError(.badState, "\(name): the state cannot be this device's: \(what)")
    }

    /// The queues of a state that this device can have had.
    private func checked(_ state: VirtioState) throws(VirtioError) -> [DeviceCore.QueueRegisters] {
        guard state.deviceID == core.backend.deviceID else {
            throw bad("it is of a device of type \(state.deviceID), here is type \(core.backend.deviceID)")
        }
        let limits = core.backend.queueSizes
        guard state.queues.count == limits.count else {
            throw bad("it has \(state.queues.count) queues, here are \(limits.count)")
        }
        guard state.status & ~(DeviceStatus.settable | DeviceStatus.needsReset) == 0 else {
            throw bad("status \(hex(state.status))")
        }
        let agreed = state.status & DeviceStatus.featuresOK != 0
        if agreed {
            let missing = state.driverFeatures & ~core.offeredFeatures
            guard missing == 0 else {
                throw VirtioError(
                    .unsupported, "\(name): the driver uses features that are not offered here: \(hex(missing))")
            }
            guard accepts(state.driverFeatures) else { throw bad("features \(hex(state.driverFeatures))") }
        } else if state.status & DeviceStatus.driverOK != 0 {
            throw bad("a driver at work that agreed to no features")
        }
        var queues: [DeviceCore.QueueRegisters] = []
        for saved in state.queues {
            var queue = DeviceCore.QueueRegisters(size: saved.size)
            queue.isReady = saved.isReady
            queue.descriptors = saved.descriptorAddress
            queue.driver = saved.driverAddress
            queue.device = saved.deviceAddress
            queue.nextIndex = saved.nextAvailable
            queues.append(queue)
        }
        do throws(VirtioFault) {
            _ = try core.makeQueues(queues, features: state.driverFeatures)
        } catch {
            throw bad(error.message)
        }
        return queues
    }
}
