/// The guest's command line: words `name=value`, separated by blanks. The guest parses the same words again
/// (Sources/CSelfTest/guest/commandline.S) and refuses what it does not know.
extension SelfTestOptions {
    /// The words that tell the guest to do this. Defaults are left out.
    public var commandLine: String {
        let standard = SelfTestOptions()
        return Self.words.compactMap { word -> String? in
            guard let value = word.format(self), value != word.format(standard) else { return nil }
            return "\(word.name)=\(value)"
        }.joined(separator: " ")
    }

    /// Reads a command line as the guest would, so that a mistake is told before a VM is started.
    public init(commandLine: String) throws(SelfTestOptionError) {
        self.init()
        for token in commandLine.split(separator: " ") {
            guard let equals = token.firstIndex(of: "="),
                let word = Self.words.first(where: { $0.name == token[..<equals] })
            else { throw SelfTestOptionError(word: String(token), expected: "one of \(Self.names)") }
            let value = String(token[token.index(after: equals)...])
            guard word.parse(value, &self) else {
                throw SelfTestOptionError(word: String(token), expected: "\(word.name)=\(word.allowed)")
            }
        }
    }

    /// The names of all words, in the guest's order.
    public static var wordNames: [String] { words.map(\.name) }

    private static var names: String { wordNames.joined(separator: ", ") }

    /// One word: its name, what it allows (for people), and the way from and to the value.
    private struct Word: Sendable {
        var name: String
        var allowed: String
        var format: @Sendable (SelfTestOptions) -> String?
        var parse: @Sendable (String, inout SelfTestOptions) -> Bool
    }

    private typealias Path<Value> = any WritableKeyPath<SelfTestOptions, Value> & Sendable

    private static let words: [Word] = [
        number("memory", 0...0x400_0000, \.memoryMiB, none: 0),
        number("ws", 0...0x400_0000, \.workingSetMiB, none: 0),
        number("init", 0...0x400_0000, \.initialisedMiB, none: nil),
        number("cpus", 0...SelfTestImage.maximumCPUCount, \.cpuCount, none: 0),
        rate("rate", \.writeRate),
        rate("reads", \.readRate),
        choice("pattern", \.pattern),
        number("fill", 8...4096, \.fillByteCount),
        choice("content", \.content),
        number("hot", 0...100, \.hotAccessPercent),
        number("hotset", 0...100, \.hotSetPercent),
        number("phase", 1...86400, \.phaseSeconds),
        number("timer", 0...10000, \.timerHertz, none: nil),
        choice("timer_mode", \.timerMode),
        choice("idle", \.idle),
        number("seconds", 0...100_000_000, \.seconds, none: 0),
        choice("check", \.check),
        number("seed", 0...Int.max, \.seed),
        number("interval", 0...100_000_000, \.reportIntervalSeconds, none: 0),
        number("bad_lines", 0...1_000_000, \.badLineLimit),
        choice("vector", \.vector),
    ]

    private static func integer(_ text: String, in range: ClosedRange<Int>) -> Int? {
        guard !text.isEmpty, text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
        return Int(text).flatMap { range.contains($0) ? $0 : nil }
    }

    private static func number(_ name: String, _ range: ClosedRange<Int>, _ path: Path<Int>) -> Word {
        Word(name: name, allowed: "\(range.lowerBound) to \(range.upperBound)") {
            String($0[keyPath: path])
        } parse: { text, options in
            guard let value = integer(text, in: range) else { return false }
            options[keyPath: path] = value
            return true
        }
    }

    /// A number that may be absent; `none` is the number that means so on the command line.
    private static func number(_ name: String, _ range: ClosedRange<Int>, _ path: Path<Int?>, none: Int?) -> Word {
        Word(name: name, allowed: "\(range.lowerBound) to \(range.upperBound)") {
            $0[keyPath: path].map(String.init)
        } parse: { text, options in
            guard let value = integer(text, in: range) else { return false }
            options[keyPath: path] = value == none ? nil : value
            return true
        }
    }

    private static func rate(_ name: String, _ path: Path<Rate>) -> Word {
        Word(name: name, allowed: "MB/s or max") {
            switch $0[keyPath: path] {
            case .unlimited: "max"
            case .megabytesPerSecond(let rate): String(rate)
            }
        } parse: { text, options in
            if text == "max" {
                options[keyPath: path] = .unlimited
            } else if let value = integer(text, in: 0...999_999_999) {
                options[keyPath: path] = .megabytesPerSecond(value)
            } else {
                return false
            }
            return true
        }
    }

    private static func choice<Choice: RawRepresentable & CaseIterable & Sendable>(_ name: String, _ path: Path<Choice>)
        -> Word
    where Choice.RawValue == String {
        Word(name: name, allowed: Choice.allCases.map(\.rawValue).joined(separator: "|")) {
            $0[keyPath: path].rawValue
        } parse: { text, options in
            guard let value = Choice(rawValue: text) else { return false }
            options[keyPath: path] = value
            return true
        }
    }
}

/// A word of the guest's command line that it would refuse.
public struct SelfTestOptionError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The word as it was given.
    public var word: String
    /// What would have been right.
    public var expected: String

    public var description: String { "the selftest guest does not know '\(word)'; expected \(expected)" }
}
