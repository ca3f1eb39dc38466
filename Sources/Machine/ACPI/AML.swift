/// ACPI Machine Language, as much of it as the tables here need (ACPI 6.4, section 20.2). A value is a piece of finished
/// bytecode: pieces are put together, and nothing is patched afterwards.

/// A term, or a list of them, in bytecode.
package struct AML: Equatable, Sendable {
    package let bytes: [UInt8]

    package init(bytes: [UInt8]) { self.bytes = bytes }

    /// Several terms, one after the other.
    package init(_ terms: [AML]) { bytes = terms.flatMap(\.bytes) }

    // MARK: Data

    /// A number, in the shortest form that holds it.
    package static func integer(_ value: UInt64) -> AML {
        var bytes: [UInt8] = []
        switch value {
        case 0: bytes = [0x00]
        case 1: bytes = [0x01]
        case ...0xFF: bytes = [0x0A, UInt8(value)]
        case ...0xFFFF:
            bytes = [0x0B]
            bytes.append(UInt16(value))
        case ...0xFFFF_FFFF:
            bytes = [0x0C]
            bytes.append(UInt32(value))
        default:
            bytes = [0x0E]
            bytes.append(value)
        }
        return AML(bytes: bytes)
    }

    /// ASCII text.
    package static func string(_ text: String) -> AML {
        precondition(text.utf8.allSatisfy { (1...0x7F).contains($0) })
        return AML(bytes: [0x0D] + Array(text.utf8) + [0])
    }

    /// A compressed EISA id such as "PNP0501" (section 19.3.4).
    package static func eisaID(_ text: String) -> AML {
        let letters = Array(text.utf8)
        precondition(letters.count == 7 && letters[..<3].allSatisfy { (0x41...0x5A).contains($0) })
        var value: UInt32 = 0
        for letter in letters[..<3] { value = value << 5 | UInt32(letter - 0x40) }
        guard let number = UInt32(text.suffix(4), radix: 16) else { preconditionFailure("no EISA id: \(text)") }
        var bytes: [UInt8] = [0x0C]
        bytes.append((value << 16 | number).byteSwapped)
        return AML(bytes: bytes)
    }

    package static func buffer(_ content: [UInt8]) -> AML {
        AML(bytes: [0x11] + packaged(integer(UInt64(content.count)).bytes + content))
    }

    package static func package(_ elements: [AML]) -> AML {
        precondition(elements.count <= 255)
        return AML(bytes: [0x12] + packaged([UInt8(elements.count)] + AML(elements).bytes))
    }

    // MARK: The name space

    package static func name(_ path: String, _ value: AML) -> AML {
        AML(bytes: [0x08] + encoded(path) + value.bytes)
    }

    package static func scope(_ path: String, _ terms: [AML]) -> AML {
        AML(bytes: [0x10] + packaged(encoded(path) + AML(terms).bytes))
    }

    package static func device(_ path: String, _ terms: [AML]) -> AML {
        AML(bytes: [0x5B, 0x82] + packaged(encoded(path) + AML(terms).bytes))
    }

    /// A control method without side effects that would need it to be serialised.
    package static func method(_ path: String, argumentCount: Int = 0, _ terms: [AML]) -> AML {
        precondition((0...7).contains(argumentCount))
        return AML(bytes: [0x14] + packaged(encoded(path) + [UInt8(argumentCount)] + AML(terms).bytes))
    }

    // MARK: Statements

    /// Tells the driver of `path` that something has happened.
    package static func notify(_ path: String, _ value: UInt64) -> AML {
        AML(bytes: [0x86] + encoded(path) + integer(value).bytes)
    }

    // MARK: Encoding

    /// A body behind its length, which counts itself (section 20.2.4).
    static func packaged(_ body: [UInt8]) -> [UInt8] {
        if body.count + 1 < 0x40 { return [UInt8(body.count + 1)] + body }
        for size in 1...3 {
            let length = body.count + size + 1
            guard length < 1 << (4 + 8 * size) else { continue }
            let lead = UInt8(size << 6 | length & 0xF)
            let rest = (0..<size).map { UInt8(truncatingIfNeeded: length >> (4 + 8 * $0)) }
            return [lead] + rest + body
        }
        preconditionFailure("AML of \(body.count) bytes in one piece")
    }

    /// "\\_SB.VGEN", or "_HID": segments of four characters, filled up with underscores (section 20.2.2).
    static func encoded(_ path: String) -> [UInt8] {
        var text = Substring(path)
        var bytes: [UInt8] = []
        if text.first == "\\" {
            bytes.append(0x5C)
            text = text.dropFirst()
        }
        let segments = text.split(separator: ".").map { Array($0.utf8) }
        for segment in segments {
            precondition((1...4).contains(segment.count), "no AML name: \(path)")
            precondition(
                segment.allSatisfy { (0x30...0x39).contains($0) || (0x41...0x5A).contains($0) || $0 == 0x5F },
                "no AML name: \(path)")
        }
        switch segments.count {
        case 0: bytes.append(0)
        case 1: break
        case 2: bytes.append(0x2E)
        default: bytes += [0x2F, UInt8(clamping: segments.count)]
        }
        for segment in segments { bytes += segment + Array(repeating: 0x5F, count: 4 - segment.count) }
        return bytes
    }
}
