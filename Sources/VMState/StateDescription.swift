/// A saved state for people: rows of field and value, for `migratectl inspect` and for comparing two states.

/// The fields of a section, in the schema's order.
public struct StateDescription: Equatable, Sendable, Codable {
    /// One field. `name` is a path ("system.cs.base"); it occurs once.
    public struct Row: Hashable, Sendable, Codable {
        public var name: String
        public var value: String

        public init(name: String, value: String) {
            self.name = name
            self.value = value
        }
    }

    public private(set) var rows: [Row] = []

    public init() {}

    /// Adds a field.
    public mutating func add(_ name: String, _ value: String) { rows.append(Row(name: name, value: value)) }

    mutating func add(hex name: String, _ value: some UnsignedInteger & FixedWidthInteger) {
        add(name, Self.hex(value))
    }

    mutating func add(flag name: String, _ value: Bool) { add(name, value ? "yes" : "no") }

    /// Bytes as rows of 16, named by offset; runs of zeros are left out.
    mutating func add(bytes name: String, _ bytes: [UInt8]) {
        add(name, "\(bytes.count) bytes")
        for offset in stride(from: 0, to: bytes.count, by: 16) {
            let row = bytes[offset..<min(offset + 16, bytes.count)]
            guard row.contains(where: { $0 != 0 }) else { continue }
            add("\(name)+\(Self.hex(UInt32(truncatingIfNeeded: offset)))", Self.hexBytes(row))
        }
    }

    /// Adds another description's rows below `name`.
    public mutating func add(_ name: String, _ part: StateDescription) {
        for row in part.rows { add("\(name).\(row.name)", row.value) }
    }

    /// "0x1f".
    static func hex(_ value: some UnsignedInteger & FixedWidthInteger) -> String { "0x" + String(value, radix: 16) }

    /// "01 02 ff".
    static func hexBytes(_ bytes: some Sequence<UInt8>) -> String {
        bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(separator: " ")
    }

    /// The fields that differ from an earlier description, as "general.rax: 0x1, then 0x2".
    public func differences(from earlier: StateDescription) -> [String] {
        let before = Dictionary(earlier.rows.map { ($0.name, $0.value) }, uniquingKeysWith: { first, _ in first })
        let after = Dictionary(rows.map { ($0.name, $0.value) }, uniquingKeysWith: { first, _ in first })
        let names = earlier.rows.map(\.name) + rows.map(\.name).filter { before[$0] == nil }
        return names.compactMap { name in
            let (a, b) = (before[name] ?? "absent", after[name] ?? "absent")
            return a == b ? nil : "\(name): \(a), then \(b)"
        }
    }
}

extension StateDescription: CustomStringConvertible {
    /// One line a field, the values in a column.
    public var description: String {
        let width = rows.map(\.name.count).max() ?? 0
        return rows.map { row in
            row.name + String(repeating: " ", count: width - row.name.count + 2) + row.value
        }.joined(separator: "\n")
    }
}
