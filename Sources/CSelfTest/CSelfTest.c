#include "CSelfTest.h"

// The image is assembled by selftest.S between these two symbols.
extern const unsigned char selftest_image_start[];
extern const unsigned char selftest_image_end[];

const void *selftest_image(void) { return selftest_image_start; }

size_t selftest_image_size(void) { return (size_t)(selftest_image_end - selftest_image_start); }

// The guest writes these structs by offset, so the offsets must be those of the structs.
#define CHECK_SHARED(field, name) \
    _Static_assert(offsetof(struct selftest_shared, field) == SELFTEST_SHARED_OFFSET_##name, #field)
#define CHECK_VCPU(field, name) \
    _Static_assert(offsetof(struct selftest_vcpu, field) == SELFTEST_VCPU_OFFSET_##name, #field)

CHECK_SHARED(magic, MAGIC);
CHECK_SHARED(version, VERSION);
CHECK_SHARED(state, STATE);
CHECK_SHARED(vcpu_count, VCPU_COUNT);
CHECK_SHARED(vcpu_bytes, VCPU_BYTES);
CHECK_SHARED(vcpu_address, VCPU_ADDRESS);
CHECK_SHARED(tsc_khz, TSC_KHZ);
CHECK_SHARED(owned_pages, OWNED_PAGES);
CHECK_SHARED(boot_tsc, BOOT_TSC);
CHECK_SHARED(ready_tsc, READY_TSC);
CHECK_SHARED(timer_hz, TIMER_HZ);
CHECK_VCPU(sequence, SEQUENCE);
CHECK_VCPU(last_tsc, LAST_TSC);
CHECK_VCPU(pages_written, PAGES_WRITTEN);
CHECK_VCPU(pages_read, PAGES_READ);
CHECK_VCPU(pages_verified, PAGES_VERIFIED);
CHECK_VCPU(errors, ERRORS);
CHECK_VCPU(timer_ticks, TIMER_TICKS);
CHECK_VCPU(timer_stalls, TIMER_STALLS);
CHECK_VCPU(tsc_backward, TSC_BACKWARD);
CHECK_VCPU(clock_backward, CLOCK_BACKWARD);
CHECK_VCPU(register_failures, REGISTER_FAILURES);
CHECK_VCPU(heartbeat_failures, HEARTBEAT_FAILURES);
CHECK_VCPU(register_checks, REGISTER_CHECKS);
CHECK_VCPU(state, STATE);
CHECK_VCPU(register_mask, REGISTER_MASK);
CHECK_VCPU(tsc_step, TSC_STEP);
CHECK_VCPU(gaps, GAPS);
_Static_assert(sizeof(struct selftest_vcpu) == SELFTEST_VCPU_BYTES, "vCPU entry");
