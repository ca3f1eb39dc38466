/* The kernels for every x86-64 CPU (SSE2), and the choice between them and the AVX2 ones. */
#include "Variants.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define KERNEL(name) base_##name
#include "Kernels.h"

static const struct mk_kernels mk_kernels_base = {base_copy_hash_page, base_check_pages};

static const struct mk_kernels *kernels = &mk_kernels_base;
static uint64_t zero_page_hash;

/* Before any thread can exist: no lock needed. */
__attribute__((constructor)) static void choose_kernels(void) {
    static const uint8_t zeros[MK_PAGE_SIZE];
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) {
        kernels = &mk_kernels_avx2;
    }
    zero_page_hash = XXH3_64bits(zeros, MK_PAGE_SIZE);
}

uint64_t mk_hash(const void *bytes, size_t length, uint64_t seed) { return base_hash(bytes, length, seed); }

uint64_t mk_hash_two(const void *first, size_t first_length, const void *second, size_t second_length,
                     uint64_t seed) {
    XXH3_state_t state;
    XXH3_INITSTATE(&state);
    XXH3_64bits_reset_withSeed(&state, seed);
    XXH3_64bits_update(&state, first, first_length);
    if (second_length != 0) {
        XXH3_64bits_update(&state, second, second_length);
    }
    return XXH3_64bits_digest(&state);
}

bool mk_copy_hash_page(void *destination, const void *source, uint64_t *hash) {
    return kernels->copy_hash_page(destination, source, hash);
}

size_t mk_check_pages(const void *pages, size_t count, const uint64_t *expected) {
    return kernels->check_pages(pages, count, expected);
}

uint64_t mk_zero_page_hash(void) { return zero_page_hash; }
