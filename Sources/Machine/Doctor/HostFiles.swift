/// Small files of /proc and /sys.

import CKVM
import Glibc
import KVM

/// Reads what the kernel says about itself.
struct HostFiles {
    /// The first kilobytes of a file without the white space at its ends, or nil if it cannot be read.
    func text(_ path: String, limit: Int = 64 << 10) -> String? {
        let number = unsafe ckvm_open(path, 0)
        guard number >= 0 else { return nil }
        let file = FileDescriptor(adopting: number)
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while bytes.count < limit {
            let count = unsafe chunk.withUnsafeMutableBytes { buffer in
                unsafe ckvm_read(file.rawValue, buffer.baseAddress, buffer.count)
            }
            guard count > 0 else { break }
            bytes += chunk.prefix(count)
        }
        var text = Substring(String(decoding: bytes, as: UTF8.self))
        while let last = text.last, last.isWhitespace { text.removeLast() }
        return String(text)
    }

    func exists(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }

    func number(_ path: String) -> Int? { text(path).flatMap { Int($0) } }

    /// The chosen word of a file like "always [madvise] never".
    func choice(_ path: String) -> String? {
        guard let text = text(path), let open = text.firstIndex(of: "["), let close = text.firstIndex(of: "]"),
            open < close
        else { return nil }
        return String(text[text.index(after: open)..<close])
    }

    /// The value behind "key:" in a file of such lines.
    func field(_ key: String, in path: String) -> String? {
        for line in (text(path) ?? "").split(separator: "\n") {
            let parts = line.split(separator: ":", maxSplits: 1)
            guard parts.count == 2, parts[0].trimmed == key else { continue }
            return parts[1].trimmed
        }
        return nil
    }
}

extension Substring {
    fileprivate var trimmed: String {
        var text = self
        while let first = text.first, first.isWhitespace { text.removeFirst() }
        while let last = text.last, last.isWhitespace { text.removeLast() }
        return String(text)
    }
}

extension Int {
    /// Kilobytes of /proc/meminfo as people read them.
    var kibibytesForPeople: String {
        if self >= 10 << 20 { return "\(self >> 20) GiB" }
        if self >= 10 << 10 { return "\(self >> 10) MiB" }
        return "\(self) KiB"
    }
}
