/// Numbers that the guest (assembly), the VMM (C and Swift) and docs/selftest-guest.md must agree on.
///
/// Only preprocessor constants stand here, so that the assembler can read this file too. Addresses are guest physical.
#pragma once

/// Where the image is loaded: its only PT_LOAD segment starts here. The first MiB belongs to firmware and the VMM.
#define SELFTEST_LOAD_ADDRESS 0x100000

/// The shared page: `struct selftest_shared`, followed by the vCPU entries from the next page on.
#define SELFTEST_SHARED_ADDRESS 0x101000
#define SELFTEST_VCPU_ADDRESS 0x102000

/// How many vCPUs the image has room for.
#define SELFTEST_MAX_VCPUS 64

/// Bytes of one vCPU entry.
#define SELFTEST_VCPU_BYTES 512

/// "SELFTEST" in memory order.
#define SELFTEST_MAGIC 0x54534554464c4553

/// Changes whenever the shared page, the command line or the report lines change their meaning.
#define SELFTEST_VERSION 1

/// The port whose write ends the VM, as QEMU's `-device isa-debug-exit,iobase=0x501,iosize=2` understands it.
#define SELFTEST_EXIT_PORT 0x501

/// What is written to it. QEMU's exit status is (value << 1) | 1.
#define SELFTEST_EXIT_PASS 0
#define SELFTEST_EXIT_FAIL 1
#define SELFTEST_EXIT_FATAL 2

/// `struct selftest_shared`, byte offsets.
#define SELFTEST_SHARED_OFFSET_MAGIC 0
#define SELFTEST_SHARED_OFFSET_VERSION 8
#define SELFTEST_SHARED_OFFSET_STATE 12
#define SELFTEST_SHARED_OFFSET_VCPU_COUNT 16
#define SELFTEST_SHARED_OFFSET_VCPU_BYTES 20
#define SELFTEST_SHARED_OFFSET_VCPU_ADDRESS 24
#define SELFTEST_SHARED_OFFSET_TSC_KHZ 32
#define SELFTEST_SHARED_OFFSET_OWNED_PAGES 40
#define SELFTEST_SHARED_OFFSET_BOOT_TSC 48
#define SELFTEST_SHARED_OFFSET_READY_TSC 56
#define SELFTEST_SHARED_OFFSET_TIMER_HZ 64

/// Values of `state`, of the guest and of each vCPU.
#define SELFTEST_STATE_ABSENT 0
#define SELFTEST_STATE_STARTING 1
#define SELFTEST_STATE_RUNNING 2
#define SELFTEST_STATE_STOPPED 3

/// Bits of `register_mask`: kinds of registers whose value was lost at least once.
#define SELFTEST_REGISTER_X87_CONTROL 1
#define SELFTEST_REGISTER_MXCSR 2
#define SELFTEST_REGISTER_X87 4
#define SELFTEST_REGISTER_SSE 8
#define SELFTEST_REGISTER_AVX 16
#define SELFTEST_REGISTER_FS 32
#define SELFTEST_REGISTER_GS 64

/// `struct selftest_vcpu`, byte offsets.
#define SELFTEST_VCPU_OFFSET_SEQUENCE 0
#define SELFTEST_VCPU_OFFSET_LAST_TSC 8
#define SELFTEST_VCPU_OFFSET_PAGES_WRITTEN 16
#define SELFTEST_VCPU_OFFSET_PAGES_READ 24
#define SELFTEST_VCPU_OFFSET_PAGES_VERIFIED 32
#define SELFTEST_VCPU_OFFSET_ERRORS 40
#define SELFTEST_VCPU_OFFSET_TIMER_TICKS 48
#define SELFTEST_VCPU_OFFSET_TIMER_STALLS 56
#define SELFTEST_VCPU_OFFSET_TSC_BACKWARD 64
#define SELFTEST_VCPU_OFFSET_CLOCK_BACKWARD 72
#define SELFTEST_VCPU_OFFSET_REGISTER_FAILURES 80
#define SELFTEST_VCPU_OFFSET_HEARTBEAT_FAILURES 88
#define SELFTEST_VCPU_OFFSET_REGISTER_CHECKS 96
#define SELFTEST_VCPU_OFFSET_STATE 104
#define SELFTEST_VCPU_OFFSET_REGISTER_MASK 108
#define SELFTEST_VCPU_OFFSET_TSC_STEP 112
#define SELFTEST_VCPU_OFFSET_GAPS 128

/// So many of the largest gaps of each vCPU are kept: on a busy host the one that matters may not be the largest.
#define SELFTEST_GAPS 24
