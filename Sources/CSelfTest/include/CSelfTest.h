/// The built-in test guest: its PVH ELF image, and the page that it shares with whoever looks into its memory.
/// docs/selftest-guest.md describes the guest.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "selftest_layout.h"

/// The ELF image, as it would lie in a file. Constant and valid for the life of the process.
const void *_Nonnull selftest_image(void);

/// Bytes of the ELF image.
size_t selftest_image_size(void);

/// One gap: the vCPU ran its last instruction before it at about `from` and its first one after it at about `to`
/// (both TSC). Both are 0 in an unused slot.
struct selftest_gap {
    uint64_t from;
    uint64_t to;
};

/// What one vCPU writes about itself. Only that vCPU writes it, without locks: a reader that looks while the vCPU runs
/// may see counters of slightly different moments.
struct selftest_vcpu {
    /// The heartbeat: grows by one with each turn of the main loop. Never goes back.
    uint64_t sequence;
    /// The TSC at the last heartbeat.
    uint64_t last_tsc;
    /// Pages rewritten.
    uint64_t pages_written;
    /// Pages read by the `reads=` workload.
    uint64_t pages_read;
    /// Pages checked, for whatever reason: before a rewrite, by a read, by the command `v`.
    uint64_t pages_verified;
    /// Wrong pages.
    uint64_t errors;
    /// LAPIC timer interrupts taken.
    uint64_t timer_ticks;
    /// Moments at which the timer had not ticked for far too long.
    uint64_t timer_stalls;
    /// Times that the TSC was lower than before.
    uint64_t tsc_backward;
    /// Times that kvmclock was lower than before.
    uint64_t clock_backward;
    /// Checks of the register file that failed.
    uint64_t register_failures;
    /// Times that the heartbeat sequence in this entry was not what the vCPU had written last.
    uint64_t heartbeat_failures;
    /// Checks of the register file.
    uint64_t register_checks;
    /// SELFTEST_STATE_...
    uint32_t state;
    /// SELFTEST_REGISTER_... of all failures so far.
    uint32_t register_mask;
    /// The largest step back of the TSC, in cycles.
    uint64_t tsc_step;
    uint64_t reserved;
    /// The largest gaps, in no order.
    struct selftest_gap gaps[SELFTEST_GAPS];
};

/// The shared page.
struct selftest_shared {
    /// SELFTEST_MAGIC from the moment that the image is loaded.
    uint64_t magic;
    /// SELFTEST_VERSION.
    uint32_t version;
    /// SELFTEST_STATE_...: RUNNING once all memory is initialised and every vCPU works.
    uint32_t state;
    /// vCPUs in use: entries that are filled.
    uint32_t vcpu_count;
    /// Bytes of one entry (SELFTEST_VCPU_BYTES).
    uint32_t vcpu_bytes;
    /// Guest physical address of the first entry.
    uint64_t vcpu_address;
    /// The TSC's frequency as the guest found it, or 0.
    uint64_t tsc_khz;
    /// Pages that the guest owns and verifies.
    uint64_t owned_pages;
    /// The TSC when the guest reached its main program, and when it was ready.
    uint64_t boot_tsc;
    uint64_t ready_tsc;
    /// Interrupts a second that the timer is programmed to, or 0.
    uint64_t timer_hz;
};
