/// What one run of a Linux guest gave.

/// Who runs the guest.
enum LinuxContender: String, Codable, CaseIterable, Sendable {
    case migratectl
    /// The machine q35, as people move it.
    case qemu
    /// The machine microvm, made to boot fast; it is only booted.
    case qemuMicroVM = "qemu-microvm"
}

/// The keys are the columns of the raw results.
struct LinuxRecord: Codable, Sendable {
    var contender: LinuxContender
    var memoryMiB: Int
    var vcpus: Int
    var round: Int
    /// Why the run does not count, in one sentence.
    var failure: String?
    /// From the start of the process to the guest's first line from init, in seconds.
    var bootSeconds: Double?
    /// Resident memory of the process without guest RAM, MiB.
    var residentMiB: Double?
    /// Guest RAM that the guest has touched when the move begins, MiB, as the host's kernel counts it.
    var touchedMiB: Double?
    /// Milliseconds from the request until the source is done.
    var total: Double?
    /// As the program says, milliseconds.
    var downtime: Double?
    /// Pages whose contents were sent, in MiB. Of QEMU: what it says that it transferred.
    var sentMiB: Double?

    init(contender: LinuxContender, memoryMiB: Int, vcpus: Int, round: Int) {
        self.contender = contender
        self.memoryMiB = memoryMiB
        self.vcpus = vcpus
        self.round = round
    }

    var summary: String {
        if let failure { return "FAILED: \(failure)" }
        func text(_ value: Double?, _ digits: Int, _ unit: String) -> String {
            value.map { "\(fixed($0, digits)) \(unit)" } ?? "-"
        }
        return "boot \(text(bootSeconds, 2, "s")), total \(text(total, 0, "ms")), downtime \(text(downtime, 1, "ms")), "
            + "sent \(text(sentMiB, 0, "MiB")) of \(text(touchedMiB, 0, "MiB")), RSS \(text(residentMiB, 1, "MiB"))"
    }
}
