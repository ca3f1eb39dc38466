/// What is measured: a cell is a situation, a contender is who is measured in it.

/// How pages travel.
enum Transport: String, Codable, CaseIterable, Sendable {
    case tcp, unix
}

/// The memory at the destination before the migration begins, the same for all.
enum Destination: String, Codable, CaseIterable, Sendable {
    /// Resident (`prealloc=on`, `--preallocate`).
    case touched
    /// Never touched: the kernel finds and clears each page while pages arrive.
    case untouched
}

/// One situation, the same for all contenders.
struct Cell: Codable, Hashable, Sendable {
    var memoryMiB: Int
    /// What the guest writes, in MB/s.
    var dirtyRate: Int
    var transport: Transport
    var destination: Destination
    /// The same for all; nil leaves each program its own default.
    var downtimeLimitMilliseconds: Double?
    var vcpus: Int

    var title: String {
        let memory = memoryMiB % 1024 == 0 ? "\(memoryMiB / 1024) GiB" : "\(memoryMiB) MiB"
        let rate = dirtyRate == 0 ? "idle" : "\(dirtyRate) MB/s"
        let cpus = vcpus == 1 ? "" : ", \(vcpus) vCPUs"
        let limit = downtimeLimitMilliseconds.map { "downtime limit \(Int($0)) ms" } ?? "default limits"
        return "\(memory), \(rate), \(transport.rawValue), destination \(destination.rawValue)\(cpus), \(limit)"
    }
}

/// Who is measured.
enum Contender: Hashable, Sendable {
    case migratectl(lanes: Int)
    /// Plain when `channels` is 0, else multifd.
    case qemu(channels: Int)
    case limit(lanes: Int)

    var name: String {
        switch self {
        case .migratectl(let lanes): "migratectl-\(lanes)"
        case .qemu(let channels): channels == 0 ? "qemu" : "qemu-multifd\(channels)"
        case .limit(let lanes): "limit-\(lanes)"
        }
    }
}

/// What one run gave. The keys are the columns of the raw results; times are milliseconds.
struct RunRecord: Codable, Sendable {
    var cell: Cell
    var contender: String
    var round: Int
    var startedAt: String
    /// Why the run does not count, in one sentence.
    var failure: String?

    /// From the request until the source is done and the destination runs, as the benchmark saw it.
    var total: Double?
    /// The same as the program says.
    var reportedTotal: Double?
    var reportedDowntime: Double?
    /// The gap in the guest's own stamps that contains the switch.
    var blackout: Double?
    /// The largest gap that the guest felt from the request on.
    var feltGap: Double?
    /// The largest gap that the guest felt in the quiet second before.
    var noise: Double?
    /// Not due to memory: the parts of the downtime that are the same for any number of pages left.
    var fixedDowntime: Double?
    var downtimePhases: [String: Double]?
    /// CPU seconds without the guest's own, per GiB of memory: source, destination, and helpers (the commands).
    var cpuSourcePerGiB: Double?
    var cpuDestinationPerGiB: Double?
    var cpuHelpersPerGiB: Double?
    var bytesSent: Double?
    var rounds: Int?
    /// The limit only: when the memory had been moved once.
    var once: Double?
    var wrongPages: Int?
    /// What else the guest found wrong. It makes a run of ours fail; of another program it is only noted.
    var otherFaults: [String]?

    init(cell: Cell, contender: Contender, round: Int, startedAt: String) {
        self.cell = cell
        self.contender = contender.name
        self.round = round
        self.startedAt = startedAt
    }

    var cpuPerGiB: Double? {
        guard let cpuSourcePerGiB, let cpuDestinationPerGiB else { return nil }
        return cpuSourcePerGiB + cpuDestinationPerGiB + (cpuHelpersPerGiB ?? 0)
    }
}
