/// What the control plane needs of a VM. The VM's process implements it; tests put a stand-in here.

/// A VM under control. Called from the server's connection threads, several at a time; calls may block.
public protocol ControlledVM: AnyObject, Sendable {
    /// What `status` and `ps` show. Must answer at any time, whatever else is under way.
    func status() -> VMStatus

    /// - Throws: `wrongState` if the VM is not running, or if it is being moved.
    func pause() throws(ControlError)
    /// - Throws: `wrongState` if the VM is not paused by a person.
    func resume() throws(ControlError)
    /// Begins to stop the VM and to end its process; returns before it has ended.
    func stop() throws(ControlError)

    /// Begins to send the VM away; returns as soon as the attempt is under way.
    func startMigration(_ request: SendRequest) throws(ControlError) -> MigrationStatus
    /// The current migration, or the last one. Must answer at any time.
    func migration() -> MigrationStatus
    /// Sleeps until no migration is under way, at most for `timeout`.
    func awaitMigrationEnd(timeout: Duration)
    /// Asks the migration under way to stop; the VM goes on here.
    func cancelMigration() throws(ControlError)
    /// Hands over the VM of a migration under way now, and lets its pages follow.
    func switchToPostCopy() throws(ControlError)
    /// Changes the limits of the migration under way, and returns those that now hold.
    func setLimits(_ limits: MigrationLimitsPayload) throws(ControlError) -> MigrationLimitsPayload
    /// Decides a hand-over that was left in doubt.
    func resolve(_ request: ResolveRequest) throws(ControlError)

    /// Asks the guest what it saw, and waits for its answer.
    /// - Throws: `unsupported` if this guest says nothing.
    func guestReport(_ request: GuestReportRequest) throws(ControlError) -> any Encodable & Sendable
}
