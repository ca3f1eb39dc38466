/// `migratectl inspect`: explains a stream, record by record.

import ArgumentParser
import Glibc
import Migrate
import VMState

struct InspectCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "inspect", abstract: "Explain a migration stream record by record.",
        discussion: """
            Reads what migratectl send --record has kept, or any stream from a pipe. Trusts nothing that it reads, and names
            the first damaged byte of a damaged stream. Ends with 16 if the stream is damaged, truncated, or none of ours.
            With --json: a line for the header, one for each record, one for the summary.
            """)

    @Argument(help: "The file to read; - is standard input.", completion: .file())
    var file: String

    @Flag(help: "Show every field on a line of its own.")
    var long = false

    @Flag(name: .customLong("summary"), help: "Show only what is wrong, and the totals.")
    var isBrief = false

    @OptionGroup var output: OutputOptions

    private struct Line<Value: Encodable>: Encodable {
        var kind: String
        var value: Value

        func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: Key.self)
            try container.encode(value, forKey: Key(kind))
        }
    }

    private struct Key: CodingKey {
        var stringValue: String
        var intValue: Int? { nil }
        init(_ name: String) { stringValue = name }
        init?(stringValue: String) { self.stringValue = stringValue }
        init?(intValue: Int) { nil }
    }

    func run() throws {
        var inspector: StreamInspector
        do {
            let source =
                file == "-" ? FileSource(descriptor: STDIN_FILENO, name: "standard input") : try FileSource(path: file)
            inspector = StreamInspector(source, explain: Self.explain)
            if let header = try inspector.readHeader() {
                try show(header, as: "header", text: header.description, isProblem: !header.problems.isEmpty)
                while let record = try inspector.next() {
                    try show(
                        record, as: "record", text: long ? record.details : record.description,
                        isProblem: !record.problems.isEmpty)
                }
            }
        } catch let error as TransportError {
            throw CommandError(.failure, error.message)
        }
        let summary = inspector.summary
        if output.json {
            try Output.jsonLine(Line(kind: "summary", value: summary))
        } else {
            try Output.line(summary.description)
        }
        guard summary.isIntact else {
            throw CommandError(
                .damaged, summary.firstProblem.map { "\($0)" } ?? summary.stopped ?? "the stream is not whole")
        }
    }

    private func show(_ value: some Encodable, as kind: String, text: String, isProblem: Bool) throws {
        if isBrief, !isProblem { return }
        if output.json { try Output.jsonLine(Line(kind: kind, value: value)) } else { try Output.line(text) }
    }

    /// The inside of what the engine only carries.
    private static func explain(_ part: StreamInspector.Part) -> [InspectedField] {
        let rows: [StateDescription.Row]
        switch part {
        case .state(let section):
            rows =
                (try? StateDescription(section: section.name, version: section.version, bytes: section.bytes))?.rows
                ?? []
        case .cpuPolicy(let bytes):
            rows = (try? CPUPolicy(decoding: bytes))?.stateDescription.rows ?? []
        }
        return rows.map { InspectedField(" " + $0.name, $0.value) }
    }
}
