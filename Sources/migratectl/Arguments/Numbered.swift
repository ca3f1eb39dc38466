/// `N=TEXT`: something for one of several devices.

import ArgumentParser

/// A device's number, from 0, and what was said of it.
struct Numbered: Equatable {
    var number: Int
    var text: String
}

func parseNumbered(_ text: String) throws -> Numbered {
    let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.count == 2, let number = Int(parts[0]), (0..<64).contains(number), !parts[1].isEmpty else {
        throw ValidationError("'\(text)' is not a device's number, =, and what it has here: such as 0=/srv/disk.img.")
    }
    return Numbered(number: number, text: String(parts[1]))
}

/// `N=tap=NAME`.
func parseNumberedTap(_ text: String) throws -> Numbered {
    var parsed = try parseNumbered(text)
    guard parsed.text.hasPrefix("tap="), parsed.text.utf8.count > 4 else {
        throw ValidationError("'\(text)' names no tap interface: write 0=tap=NAME.")
    }
    parsed.text.removeFirst(4)
    return parsed
}
