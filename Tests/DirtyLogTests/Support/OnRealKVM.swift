import Testing

/// All tests that run a guest, one at a time: each keeps the machine's cores busy, and some count threads.
@Suite(.serialized, .enabled(if: WriterVM.isAvailable, "no usable /dev/kvm on this host"))
enum OnRealKVM {}
