/// Quantities on the command line: with units, so that nobody has to guess them.

import ArgumentParser
import Units

/// A size: a number and K, M, G or T (of 1024), with or without "B" or "iB".
func parseSize(_ text: String) throws -> ByteCount {
    let (value, unit) = try split(text, "a size such as 256M or 4G")
    let factors: [String: Double] = [
        "": 1, "b": 1, "k": 1024, "m": 1_048_576, "g": 1_073_741_824, "t": 1_099_511_627_776,
    ]
    var suffix = unit.lowercased()
    if suffix.hasSuffix("ib") {
        suffix.removeLast(2)
    } else if suffix.count == 2, suffix.hasSuffix("b") {
        suffix.removeLast()
    }
    guard let factor = factors[suffix] else {
        throw ValidationError("'\(text)' is not a size: the unit is K, M, G or T (of 1024), such as in 256M.")
    }
    let bytes = value * factor
    guard bytes < 9e18, bytes == bytes.rounded() else {
        throw ValidationError("'\(text)' is not a whole number of bytes.")
    }
    return ByteCount(UInt64(bytes))
}

/// A duration in milliseconds: a number and us, ms, s, m or h.
func parseMilliseconds(_ text: String) throws -> Double {
    let (value, unit) = try split(text, "a duration such as 20ms or 1.5s")
    let factors: [String: Double] = ["us": 0.001, "ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000]
    guard let factor = factors[unit.lowercased()] else {
        throw ValidationError("'\(text)' is not a duration: give a unit (us, ms, s, m or h), such as in 20ms.")
    }
    return value * factor
}

/// A duration, or "none" (0).
func parseMillisecondsOrNone(_ text: String) throws -> Double { text == "none" ? 0 : try parseMilliseconds(text) }

/// Bytes a second: a size, or bits with "bit" (decimal: 10Gbit), with or without "/s"; or "none" (0).
func parseRate(_ text: String) throws -> UInt64 {
    if text == "none" { return 0 }
    var body = text
    if body.hasSuffix("/s") { body.removeLast(2) }
    guard body.lowercased().hasSuffix("bit") else {
        guard let size = try? parseSize(body) else {
            throw ValidationError("'\(text)' is not a rate: write 100M (bytes a second), 10Gbit, or none.")
        }
        return size.rawValue
    }
    body.removeLast(3)
    let (value, unit) = try split(body, "a rate such as 100M or 10Gbit")
    guard let factor = ["": 1.0, "k": 1e3, "m": 1e6, "g": 1e9][unit.lowercased()] else {
        throw ValidationError("'\(text)' is not a rate: write 100M (bytes a second), 10Gbit, or none.")
    }
    let bytes = (value * factor / 8).rounded()
    guard bytes < 9e18 else { throw ValidationError("'\(text)' is more than any link carries.") }
    return UInt64(bytes)
}

private func split(_ text: String, _ what: String) throws -> (Double, String) {
    let digits = text.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
    guard !digits.isEmpty, let value = Double(digits), value.isFinite else {
        throw ValidationError("'\(text)' is not \(what).")
    }
    return (value, String(text.dropFirst(digits.count)).trimmingBlanks)
}

extension String {
    fileprivate var trimmingBlanks: String {
        var text = Substring(self)
        while text.first == " " { text.removeFirst() }
        return String(text)
    }
}
