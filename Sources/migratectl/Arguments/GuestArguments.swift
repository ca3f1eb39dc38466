/// What the built-in test guest shall do. The words are the guest's own (docs/selftest-guest.md).

import ArgumentParser
import SelfTest
import Units

enum GuestKind: String, ExpressibleByArgument, CaseIterable {
    case selftest
}

extension SelfTestOptions.Pattern: ExpressibleByArgument {}
extension SelfTestOptions.Content: ExpressibleByArgument {}
extension SelfTestOptions.Idle: ExpressibleByArgument {}

struct GuestArguments: ParsableArguments {
    @Option(help: "What to boot: selftest, the built-in guest that checks itself. (default without --kernel)")
    var guest: GuestKind?

    @Option(help: ArgumentHelp("Write so many MB a second (or max).", valueName: "MB/s"), transform: parseGuestRate)
    var rate: SelfTestOptions.Rate?

    @Option(
        help: ArgumentHelp("Read and check so many MB a second (or max).", valueName: "MB/s"), transform: parseGuestRate
    )
    var reads: SelfTestOptions.Rate?

    @Option(
        help: "Which pages it touches: \(SelfTestOptions.Pattern.allCases.map(\.rawValue).joined(separator: ", ")).")
    var pattern: SelfTestOptions.Pattern?

    @Option(
        help: ArgumentHelp("The memory that it works in (all of it by default).", valueName: "size"),
        transform: parseMebibytes)
    var workingSet: Int?

    @Option(
        help: ArgumentHelp("The memory that it fills at the start (all of it by default).", valueName: "size"),
        transform: parseMebibytes)
    var fill: Int?

    @Option(help: "What it fills memory with: random (incompressible), zero, or text.")
    var content: SelfTestOptions.Content?

    @Option(help: "What a vCPU does when nothing is due: halt, or spin (a finer heartbeat, for a whole core).")
    var idle: SelfTestOptions.Idle?

    @Option(
        help: ArgumentHelp(
            "After how many seconds the guest checks everything, reports and ends.", valueName: "seconds"))
    var seconds: Int?

    @Option(
        name: .customLong("guest-options"),
        help: ArgumentHelp("More words for the guest, such as \"seed=7 timer=1000\".", valueName: "words"))
    var words: String?

    func validate() throws { _ = try commandLine(over: nil) }

    /// The guest's command line: what the flags say, over what the words of a configuration file do. Nil when neither
    /// says anything.
    func commandLine(over fileWords: String?) throws -> String? {
        let isSaid =
            rate != nil || reads != nil || pattern != nil || workingSet != nil || fill != nil || content != nil
            || idle != nil || seconds != nil
        guard let words = words ?? fileWords ?? (isSaid ? "" : nil) else { return nil }
        return try line(words)
    }

    /// The command line that words make by themselves.
    static func commandLine(words: String) throws -> String {
        do throws(SelfTestOptionError) {
            return try SelfTestOptions(commandLine: words).commandLine
        } catch {
            throw ValidationError("\(error)")
        }
    }

    private func line(_ words: String) throws -> String {
        do throws(SelfTestOptionError) {
            var options = try SelfTestOptions(commandLine: words)
            if let rate { options.writeRate = rate }
            if let reads { options.readRate = reads }
            if let pattern { options.pattern = pattern }
            if let workingSet { options.workingSetMiB = workingSet }
            if let fill { options.initialisedMiB = fill }
            if let content { options.content = content }
            if let idle { options.idle = idle }
            if let seconds { options.seconds = seconds }
            let line = options.commandLine
            // The guest's own rules, whichever way the words came.
            _ = try SelfTestOptions(commandLine: line)
            return line
        } catch {
            throw ValidationError("\(error)")
        }
    }
}

private func parseGuestRate(_ text: String) throws -> SelfTestOptions.Rate {
    if text == "max" { return .unlimited }
    guard let value = Int(text), (0...999_999_999).contains(value) else {
        throw ValidationError("'\(text)' is not a rate in MB a second, nor max.")
    }
    return .megabytesPerSecond(value)
}

private func parseMebibytes(_ text: String) throws -> Int {
    let size = try parseSize(text).rawValue
    guard size % (1 << 20) == 0 else { throw ValidationError("'\(text)' is not a whole number of MiB.") }
    return Int(clamping: size >> 20)
}
