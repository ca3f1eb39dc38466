/// One line of the guest's report: `selftest: event=NAME key=value ...`.
///
/// The guest is not trusted: a line that lacks a key, or whose number does not fit, is `malformed`, never a trap.
public enum SelfTestEvent: Hashable, Sendable {
    case boot(SelfTestReport.Boot)
    case ready(SelfTestReport.Ready)
    case badPage(SelfTestReport.BadPage)
    case verify(SelfTestReport.Verification)
    case cpu(SelfTestReport.CPU)
    case gap(SelfTestGap)
    case summary(SelfTestReport.Summary)
    case gapsReset
    case fault(SelfTestReport.Fault)
    /// The guest could not run; its reason.
    case error(String)
    case exit(code: Int)
    /// A line of the guest that this version cannot read.
    case malformed(String)

    /// Reads one line without its end. Nil if it is not a line of the guest.
    public init?(line: some StringProtocol) {
        let words = line.split(whereSeparator: { $0 == " " || $0 == "\r" })
        guard words.first == "selftest:" else { return nil }
        var values: [String: Substring] = [:]
        for word in words.dropFirst() {
            let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2 else { continue }
            values[String(parts[0])] = Substring(parts[1])
        }
        do {
            self = try Self(Fields(values: values), line: String(line))
        } catch {
            self = .malformed(String(line))
        }
    }

    private init(_ fields: Fields, line: String) throws {
        switch try fields.text("event") {
        case "boot": self = .boot(try .init(fields))
        case "ready": self = .ready(try .init(fields))
        case "bad": self = .badPage(try .init(fields))
        case "verify": self = .verify(try .init(fields))
        case "cpu": self = .cpu(try .init(fields))
        case "gap": self = .gap(try .init(fields))
        case "report": self = .summary(try .init(fields))
        case "gaps-reset": self = .gapsReset
        case "fault": self = .fault(try .init(fields))
        case "error":
            let rest = fields.values.filter { $0.key != "event" && $0.key != "reason" }
            let details = rest.sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }.joined()
            self = .error(try fields.text("reason") + details)
        case "exit": self = .exit(code: try fields.number("code"))
        default: self = .malformed(line)
        }
    }
}

/// The values of a line by their keys.
struct Fields {
    var values: [String: Substring]

    struct Missing: Error {}

    func text(_ key: String) throws -> String {
        guard let value = values[key] else { throw Missing() }
        return String(value)
    }

    /// Decimal, or hexadecimal with 0x.
    func number<Number: FixedWidthInteger>(_ key: String) throws -> Number {
        guard let value = values[key] else { throw Missing() }
        let number = value.hasPrefix("0x") ? Number(value.dropFirst(2), radix: 16) : Number(value)
        guard let number else { throw Missing() }
        return number
    }
}
