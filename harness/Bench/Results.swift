/// Raw results: a file of JSON lines, the first about the machine, then one a run. Written run by run, so that nothing
/// is lost when a benchmark is stopped.

import Foundation
import HarnessSupport

/// What the figures were taken on.
struct MachineDescription: Codable, Sendable {
    var startedAt: String
    var processors: Int
    var memoryMiB: Int
    var processor: String
    var kernel: String
    var kvm: String
    var qemu: String
    var migratectl: String
    var hugePages: String
}

/// A set of runs.
struct Results {
    var machines: [MachineDescription] = []
    var runs: [RunRecord] = []

    /// Reads files that `ResultWriter` wrote.
    init(files: [String]) throws {
        let decoder = JSONDecoder()
        for file in files {
            guard let text = readText(file) else { throw HarnessError("cannot read \(file)") }
            for line in text.split(separator: "\n") {
                let data = Data(line.utf8)
                if let run = try? decoder.decode(RunRecord.self, from: data) {
                    runs.append(run)
                } else if let machine = try? decoder.decode(MachineDescription.self, from: data) {
                    machines.append(machine)
                } else {
                    throw HarnessError("\(file) has a line that is no result: \(line.prefix(80))")
                }
            }
        }
    }

    /// The cells in the order in which they first appear.
    var cells: [Cell] {
        var seen: Set<Cell> = []
        return runs.map(\.cell).filter { seen.insert($0).inserted }
    }

    func runs(in cell: Cell, of contender: String) -> [RunRecord] {
        runs.filter { $0.cell == cell && $0.contender == contender && $0.failure == nil }
    }

    func sample(_ key: KeyPath<RunRecord, Double?>, in cell: Cell, of contender: String) -> Sample? {
        Sample(runs(in: cell, of: contender).compactMap { $0[keyPath: key] })
    }

    func contenders(in cell: Cell) -> [String] {
        var seen: Set<String> = []
        return runs.filter { $0.cell == cell }.map(\.contender).filter { seen.insert($0).inserted }.sorted()
    }

    func failures(in cell: Cell, of contender: String) -> [RunRecord] {
        runs.filter { $0.cell == cell && $0.contender == contender && $0.failure != nil }
    }
}

/// Appends to a file of results.
final class ResultWriter {
    let path: String
    private let handle: FileHandle
    private let encoder = JSONEncoder()

    init(path: String) throws {
        self.path = path
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        guard FileManager.default.createFile(atPath: path, contents: nil),
            let handle = FileHandle(forWritingAtPath: path)
        else { throw HarnessError("cannot write \(path)") }
        self.handle = handle
    }

    func append(_ value: some Encodable) throws {
        do {
            try handle.write(contentsOf: try encoder.encode(value) + Data("\n".utf8))
        } catch {
            throw HarnessError("cannot write \(path): \(error)")
        }
    }
}

/// A moment as results carry it.
func timestamp() -> String {
    Date().formatted(.iso8601)
}
