/// What this host allows, in a form for tables and for JSON. Field names are part of the product.

import VMState

/// The findings of `migratectl doctor`.
public struct HostReport: Codable, Equatable, Sendable {
    /// How much a finding matters.
    public enum Status: String, Codable, Sendable, CaseIterable {
        /// There, and as it should be.
        case good
        /// A fact that is neither good nor bad.
        case note
        /// Absent or not at its best: something works less well, or not at all.
        case poor
        /// Absent, and no VM runs without it.
        case missing
    }

    /// One thing that was looked at.
    public struct Finding: Codable, Equatable, Sendable {
        /// What was looked at, in the kernel's words.
        public var name: String
        public var status: Status
        /// What was found.
        public var value: String
        /// What it costs that it is not better.
        public var cost: String?
        /// How to get it.
        public var remedy: String?

        public init(_ name: String, _ status: Status, _ value: String, cost: String? = nil, remedy: String? = nil) {
            self.name = name
            self.status = status
            self.value = value
            self.cost = cost
            self.remedy = remedy
        }
    }

    /// Findings that belong together.
    public struct Section: Codable, Equatable, Sendable {
        public var title: String
        public var findings: [Finding]

        public init(title: String, findings: [Finding]) {
            self.title = title
            self.findings = findings
        }
    }

    public var sections: [Section]
    /// The CPU that a VM gets here; nil where KVM does not tell, and in reports of older programs.
    public var cpu: CPUBaseline?

    public init(sections: [Section], cpu: CPUBaseline? = nil) {
        self.sections = sections
        self.cpu = cpu
    }

    /// Whether VMs can run here at all.
    public var isUsable: Bool { !sections.contains { $0.findings.contains { $0.status == .missing } } }

    enum CodingKeys: String, CodingKey {
        case isUsable, sections, cpu
    }

    public init(from decoder: any Decoder) throws {
        let container = try decoder.container(keyedBy: CodingKeys.self)
        sections = try container.decode([Section].self, forKey: .sections)
        cpu = try container.decodeIfPresent(CPUBaseline.self, forKey: .cpu)
    }

    public func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(isUsable, forKey: .isUsable)
        try container.encode(sections, forKey: .sections)
        try container.encodeIfPresent(cpu, forKey: .cpu)
    }
}
