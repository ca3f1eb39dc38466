/// What a record says, field by field, for people.

import Units

extension Record {
    /// The fields in the order of the format's document.
    func inspectedFields(_ explain: (StreamInspector.Part) -> [InspectedField]) -> [InspectedField] {
        switch self {
        case .configuration(let value): value.inspectedFields(explain)
        case .state(let section):
            [
                InspectedField("section", section.name), InspectedField("version", "\(section.version)"),
                InspectedField("contents", "\(section.bytes.count) bytes"),
            ] + Self.indented(explain(.state(section)))
        case .digest(let value):
            [
                InspectedField("digest", hexadecimal(value.digest.rawValue)),
                InspectedField("pages", "\(value.pageCount)"), InspectedField("epoch", "\(value.epoch)"),
            ]
        case .end(let value):
            [InspectedField("records", "\(value.records)"), InspectedField("pages", "\(value.pages)")]
        case .hello(let value):
            [
                InspectedField("session", "\(value.session)"), InspectedField("lanes", "\(value.lanes)"),
            ] + (value.needs.isEmpty ? [] : [InspectedField("needs", value.needs.inspected)]) + [
                InspectedField("program", value.program)
            ]
        case .welcome(let value):
            // The lane secret is no longer of use to anybody, and still nobody's business.
            [
                InspectedField("session", "\(value.session)"), InspectedField("lanes", "\(value.lanes)"),
                InspectedField("program", value.program),
            ]
        case .refusal(let value):
            [InspectedField("code", "\(value.code)"), InspectedField("reason", value.reason)]
        case .lane(let value):
            [InspectedField("session", "\(value.session)"), InspectedField("lane", "\(value.lane)")]
        case .laneReady(let lane): [InspectedField("lane", "\(lane)")]
        case .epoch(let value), .epochSeen(let value):
            [
                InspectedField("epoch", "\(value.epoch)"), InspectedField("pages", "\(value.pages)"),
                InspectedField("zero pages", "\(value.zeroPages)"),
            ]
        case .handover(let message):
            [
                InspectedField("says", message.body.inspected),
                InspectedField("attempt", "\(message.attempt.rawValue)"),
                InspectedField("digest", hexadecimal(message.digest.rawValue)),
                InspectedField("session", "\(message.session)"),
            ]
        case .progress(let value):
            [
                InspectedField("round", "\(value.round)"),
                InspectedField("pages", "\(value.pagesSent) of \(value.pagesTotal)"),
                InspectedField("rate", "\(value.bytesPerSecond) bytes/s"),
            ]
        case .rejoin(let session): [InspectedField("session", "\(session)")]
        case .timings(let value):
            [
                InspectedField("last page", "\(value.lastPage) ns"), InspectedField("load", "\(value.load) ns"),
                InspectedField("commit wait", "\(value.commitWait) ns"), InspectedField("run", "\(value.run) ns"),
                InspectedField("first entry", "\(value.firstEntry) ns"),
            ]
        case .clock(let value):
            [
                InspectedField("realtime", "\(value.realtimeNanoseconds) ns"),
                InspectedField("boot", hexadecimal(value.boot)),
            ]
        case .pageSet(let value): value.inspectedFields
        case .pagingLane(let value):
            [
                InspectedField("session", "\(value.session)"),
                InspectedField("lane", value.lane == 0 ? "urgent" : "push \(value.lane)"),
                InspectedField("generation", "\(value.generation)"),
            ]
        case .pageRequest(let value):
            [
                InspectedField("region", "\(value.region)"),
                InspectedField("pages", "\(value.firstPage) (\(value.count))"),
            ]
        case .served(let value):
            [
                InspectedField("attempt", "\(value.attempt.rawValue)"),
                InspectedField("digest", hexadecimal(value.digest.rawValue)),
                InspectedField("pages", "\(value.pageCount)"),
            ]
        case .pagingTimes(let value):
            [
                InspectedField("faults", "\(value.faults)"), InspectedField("p50", "\(value.p50) ns"),
                InspectedField("p99", "\(value.p99) ns"), InspectedField("p99.9", "\(value.p999) ns"),
                InspectedField("longest", "\(value.longest) ns"),
            ]
        }
    }

    /// Fields that belong to the one before them: only `InspectedRecord.details` prints them.
    fileprivate static func indented(_ fields: [InspectedField]) -> [InspectedField] {
        fields.map { InspectedField("  " + $0.name, $0.value) }
    }
}

extension MachineConfiguration {
    fileprivate func inspectedFields(_ explain: (StreamInspector.Part) -> [InspectedField]) -> [InspectedField] {
        var fields = [
            InspectedField("name", name), InspectedField("identifier", hexadecimal(identifier)),
            InspectedField("vCPUs", "\(vcpuCount)"),
            InspectedField("memory", "\(memory.reduce(0) { $0 + $1.byteCount >> 20 }) MiB"),
        ]
        for (number, region) in memory.enumerated() {
            let pages = region.byteCount / UInt64(pageByteCount)
            fields.append(InspectedField("  region \(number)", "\(pages) pages at \(region.guestAddress)"))
        }
        fields.append(InspectedField("CPU policy", "\(cpuPolicy.count) bytes"))
        fields += Record.indented(explain(.cpuPolicy(cpuPolicy)))
        fields.append(InspectedField("devices", "\(devices.count)"))
        fields += devices.map { InspectedField("  device", "\($0.name), state version \($0.version)") }
        return fields
    }
}

extension HandOverMessage.Body {
    /// The word of the protocol's document, and what comes with it.
    fileprivate var inspected: String {
        switch self {
        case .final(let mode): "FINAL (\(mode))"
        case .ready: "READY"
        case .refused(let reason): "REFUSED (\(reason))"
        case .void(let reason): "VOID (\(reason))"
        case .voided: "VOIDED"
        case .commit: "COMMIT"
        case .running: "RUNNING"
        case .installed: "INSTALLED"
        case .done: "DONE"
        case .lost(let hasRun): hasRun ? "LOST (it had run)" : "LOST"
        case .alive: "ALIVE"
        }
    }
}

/// "0x1f".
func hexadecimal(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }

/// "001fab".
func hexadecimal(_ bytes: [UInt8]) -> String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}

/// For a terminal: control characters of a hostile stream must not reach it.
func printable(_ text: String) -> String {
    String(
        text.unicodeScalars.map { scalar in
            scalar.value >= 0x20 && !(0x7F...0x9F ~= scalar.value) ? Character(scalar) : "?"
        })
}

extension Hello.Needs {
    fileprivate var inspected: String {
        (contains(.paging) ? ["paging"] : []).joined() + (contains(.nothingBefore) ? ", no pages before it runs" : "")
    }
}

extension PageSetRecord {
    fileprivate var inspectedFields: [InspectedField] {
        if isEnd {
            return [
                InspectedField("attempt", "\(attempt.rawValue)"),
                InspectedField("end of a set of", "\(firstPage) pages"),
            ]
        }
        let count = words.reduce(0) { $0 + $1.nonzeroBitCount }
        return [
            InspectedField("attempt", "\(attempt.rawValue)"), InspectedField("region", "\(region)"),
            InspectedField("from page", "\(firstPage)"), InspectedField("pages", "\(count) of \(words.count * 64)"),
        ]
    }
}
