// swift-tools-version: 6.2
import PackageDescription

/// Library targets: Swift 6 language mode, no warnings, every unsafe use marked.
let library: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .treatAllWarnings(as: .error),
    .strictMemorySafety(),
    .enableExperimentalFeature("Lifetimes"),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

/// Executables and tests: the same without the markers on unsafe uses.
let program: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

let package = Package(
    name: "migratectl",
    products: [
        .library(name: "KVM", targets: ["KVM"]),
        .library(name: "VMState", targets: ["VMState"]),
        .library(name: "DirtyLog", targets: ["DirtyLog"]),
        .library(name: "Migrate", targets: ["Migrate"]),
        .library(name: "Machine", targets: ["Machine"]),
        .library(name: "Virtio", targets: ["Virtio"]),
        .library(name: "Control", targets: ["Control"]),
        .executable(name: "migratectl", targets: ["migratectl"]),
        .executable(name: "migratectl-bench", targets: ["Bench"]),
        .executable(name: "migratectl-soak", targets: ["Soak"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    ],
    targets: [
        // C shims: they know nothing of the rest (DESIGN section 2).
        .target(name: "CKVM", cSettings: [.define("_GNU_SOURCE")]),
        .target(name: "CPageKernels"),
        .target(
            name: "CLibURing", cSettings: [.define("_GNU_SOURCE")], linkerSettings: [.linkedLibrary("uring")]),
        // The guest's sources in guest/ are parts of selftest.S, not files to compile by themselves.
        .target(name: "CSelfTest", exclude: ["guest"]),

        // Each target imports only targets above it.
        .target(name: "Units", swiftSettings: library),
        .target(name: "SelfTest", dependencies: ["CSelfTest", "Units"], swiftSettings: library),
        .target(name: "KVM", dependencies: ["CKVM", "Units"], swiftSettings: library),
        .target(
            name: "VMState",
            dependencies: [
                "CKVM", "KVM", "StateSchema", "Units", .product(name: "SwiftProtobuf", package: "swift-protobuf"),
            ],
            exclude: ["Schema"],
            swiftSettings: library),
        // Generated from the .proto files beside it (harness/generate-protobuf). A target of its own, as generated code
        // does not mark its unsafe uses; VMState alone imports it.
        .target(
            name: "StateSchema",
            dependencies: [.product(name: "SwiftProtobuf", package: "swift-protobuf")],
            path: "Sources/VMState/Schema",
            exclude: ["devices.proto", "platform.proto", "vcpu.proto"],
            swiftSettings: program),
        .target(name: "DirtyLog", dependencies: ["CKVM", "KVM", "Units"], swiftSettings: library),
        .target(
            name: "Migrate",
            dependencies: [
                "CKVM", "CPageKernels", "DirtyLog", "Units", .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: library),
        // Virtio devices: they know neither KVM nor the machine nor migration.
        .target(name: "Virtio", dependencies: ["CLibURing", "Units", "VMState"], swiftSettings: library),
        .target(
            name: "Machine",
            dependencies: [
                "CKVM", "DirtyLog", "KVM", "Migrate", "SelfTest", "Units", "VMState", "Virtio",
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: library),
        .target(name: "Control", dependencies: ["Migrate"], swiftSettings: library),
        .executableTarget(
            name: "migratectl",
            dependencies: [
                "Control", "DirtyLog", "KVM", "Machine", "Migrate", "SelfTest", "Units", "VMState", "Virtio",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"), .product(name: "Yams", package: "Yams"),
            ],
            swiftSettings: program),

        // The harness looks at the built program from outside; of the libraries it takes only the guest's image.
        .target(
            name: "CHarness", path: "harness/CHarness", cSettings: [.define("_GNU_SOURCE")],
            linkerSettings: [.linkedLibrary("xxhash")]),
        .target(name: "HarnessSupport", dependencies: ["CHarness"], path: "harness/Support", swiftSettings: program),
        .executableTarget(
            name: "Bench",
            dependencies: [
                "CHarness", "HarnessSupport", "SelfTest",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "harness/Bench",
            swiftSettings: program),
        .executableTarget(
            name: "Soak",
            dependencies: [
                "CHarness", "HarnessSupport", .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            path: "harness/Soak",
            swiftSettings: program),

        .testTarget(name: "SelfTestTests", dependencies: ["SelfTest", "Units"], swiftSettings: program),
        .testTarget(name: "KVMTests", dependencies: ["CKVM", "KVM", "Units"], swiftSettings: program),
        .testTarget(
            name: "VMStateTests", dependencies: ["CKVM", "KVM", "VMState", "Units"], exclude: ["Golden"],
            swiftSettings: program),
        .testTarget(name: "DirtyLogTests", dependencies: ["CKVM", "DirtyLog", "KVM", "Units"], swiftSettings: program),
        .testTarget(
            name: "MigrateTests",
            dependencies: [
                "CPageKernels", "DirtyLog", "KVM", "Migrate", "Units", .product(name: "Logging", package: "swift-log"),
            ],
            exclude: ["Golden"],
            swiftSettings: program),
        .testTarget(
            name: "MachineTests",
            dependencies: [
                "CKVM", "DirtyLog", "KVM", "Machine", "Migrate", "Units", "VMState", "Virtio",
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: program),
        .testTarget(
            name: "VirtioTests", dependencies: ["CLibURing", "Units", "VMState", "Virtio"], swiftSettings: program),
        .testTarget(name: "ControlTests", dependencies: ["Control", "Migrate"], swiftSettings: program),
        .testTarget(name: "HarnessTests", dependencies: ["CHarness", "HarnessSupport"], swiftSettings: program),
        .testTarget(name: "migratectlTests", dependencies: ["migratectl"], swiftSettings: program),
    ],
    cLanguageStandard: .c2x
)
