/// What the API says about a VM.

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// A VM and the process that runs it. What `migratectl status --json` prints.
public struct VMStatus: Codable, Equatable, Sendable {
    /// Where the VM is in its life.
    public enum State: String, Codable, Sendable, CaseIterable {
        /// The process is up, the VM is being built.
        case starting
        case running
        /// Paused by a person.
        case paused
        /// The VM is arriving; it does not run here yet.
        case receiving
        /// The link broke inside the hand-over: stopped on both sides until they meet again, or a person decides.
        case doubt
        /// It runs somewhere else now.
        case moved
        /// The guest has ended, or was stopped.
        case stopped
        /// It cannot go on.
        case failed
    }

    public var name: String
    /// The VM's 128 bits, in hexadecimal: the same wherever the VM goes. Nil until a receiver knows it.
    public var identifier: String?
    public var state: State
    /// One sentence more, if there is something to say.
    public var message: String?
    public var processID: Int32
    /// When this process began to run the VM or to wait for it.
    public var startedAt: Date
    public var memoryBytes: UInt64
    public var vcpus: Int
    /// `anon`, `memfd` or `hugetlb`.
    public var memoryBacking: String
    /// `bitmap` or `ring`.
    public var dirtyTracker: String
    /// `selftest`, or what was booted.
    public var guest: String
    /// The path of the console's socket, if it has one.
    public var console: String?
    /// Where a receiver listens.
    public var listening: String?
    /// The migration under way, or the last one.
    public var migration: MigrationStatus?

    public init(
        name: String, identifier: String? = nil, state: State, message: String? = nil, processID: Int32,
        startedAt: Date,
        memoryBytes: UInt64, vcpus: Int, memoryBacking: String, dirtyTracker: String, guest: String,
        console: String? = nil, listening: String? = nil, migration: MigrationStatus? = nil
    ) {
        self.name = name
        self.identifier = identifier
        self.state = state
        self.message = message
        self.processID = processID
        self.startedAt = startedAt
        self.memoryBytes = memoryBytes
        self.vcpus = vcpus
        self.memoryBacking = memoryBacking
        self.dirtyTracker = dirtyTracker
        self.guest = guest
        self.console = console
        self.listening = listening
        self.migration = migration
    }
}

/// What the server says about itself.
public struct ServerInformation: Codable, Equatable, Sendable {
    public var program: String
    /// The version of this API. It changes when a client that was right would be wrong.
    public var apiVersion: Int

    public static let current = ServerInformation(program: "migratectl", apiVersion: 1)
}
