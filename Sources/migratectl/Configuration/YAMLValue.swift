/// Values of a configuration file, each with its key and its line for whoever must correct it.

import ArgumentParser
import Yams

/// A mapping whose keys are words, each there once.
struct YAMLMap {
    let entries: [(key: String, node: Node)]
    private let file: String
    private let line: Int?

    init(_ node: Node, in file: String, what: String) throws {
        self.file = file
        line = node.mark?.line
        guard case .mapping(let mapping) = node else {
            throw YAMLValue.error(file, node, "\(what) must be keys with values, such as \"name: vm1\"")
        }
        var entries: [(key: String, node: Node)] = []
        for (key, value) in mapping {
            guard case .scalar(let scalar) = key else {
                throw YAMLValue.error(file, key, "a key must be a word")
            }
            guard !entries.contains(where: { $0.key == scalar.string }) else {
                throw YAMLValue.error(file, key, "\(scalar.string) is there twice")
            }
            entries.append((scalar.string, value))
        }
        self.entries = entries
    }

    /// Something is wrong with the mapping as a whole.
    func error(_ message: String) -> ValidationError {
        ValidationError("\(file)\(line.map { ", line \($0)" } ?? ""): \(message)")
    }
}

/// What stands behind a key.
struct YAMLValue {
    private let node: Node
    private let key: String
    private let file: String

    init(_ node: Node, key: String, in file: String) {
        self.node = node
        self.key = key
        self.file = file
    }

    static func error(_ file: String, _ node: Node, _ message: String) -> ValidationError {
        ValidationError("\(file)\(node.mark.map { ", line \($0.line)" } ?? ""): \(message).")
    }

    private func wrong(_ wanted: String) -> ValidationError { Self.error(file, node, "\(key) must be \(wanted)") }

    func unknown(of known: [String]) -> ValidationError {
        Self.error(file, node, "there is no key \(key); there are \(known.joined(separator: ", "))")
    }

    private func scalar(_ wanted: String) throws -> Node.Scalar {
        // "key:" with nothing behind it is most likely a value that somebody forgot.
        guard case .scalar(let scalar) = node, !(scalar.string.isEmpty && scalar.style == .plain) else {
            throw wrong(wanted)
        }
        return scalar
    }

    func text() throws -> String { try scalar("text").string }

    func number() throws -> Int {
        guard let value = Int(try scalar("a whole number").string) else { throw wrong("a whole number") }
        return value
    }

    func flag() throws -> Bool {
        switch try scalar("true or false").string {
        case "true": true
        case "false": false
        default: throw wrong("true or false")
        }
    }

    func choice<Choice: CaseIterable & RawRepresentable<String>>() throws -> Choice {
        let wanted = "one of " + Choice.allCases.map(\.rawValue).joined(separator: ", ")
        guard let value = Choice(rawValue: try scalar(wanted).string) else { throw wrong(wanted) }
        return value
    }

    /// By the rules of the flag of the same name.
    func parsed<Value>(_ parse: (String) throws -> Value) throws -> Value {
        let text = try scalar("a value").string
        do {
            return try parse(text)
        } catch let error as ValidationError {
            throw Self.error(file, node, "\(key): \(error.message)")
        }
    }

    func list() throws -> [Node] {
        guard case .sequence(let sequence) = node else { throw wrong("a list") }
        return Array(sequence)
    }
}
