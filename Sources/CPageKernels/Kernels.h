/* The kernels' source, compiled once for each instruction set (KERNEL(name) makes the names differ). */

#include <string.h>

static inline uint64_t KERNEL(hash)(const void *bytes, size_t length, uint64_t seed) {
    return XXH3_64bits_withSeed(bytes, length, seed);
}

static bool KERNEL(copy_hash_page)(void *destination, const void *source, uint64_t *hash) {
    /* One load per word: what is tested and hashed is what was copied, even if the guest writes meanwhile. The
       vectors fold by OR, which the compiler keeps in registers. */
    typedef uint64_t vector __attribute__((vector_size(64), aligned(1), may_alias));
    const vector *from = source;
    vector *to = destination;
    vector folded = {0};
    for (size_t i = 0; i < MK_PAGE_SIZE / sizeof(vector); i++) {
        vector v = from[i];
        to[i] = v;
        folded |= v;
    }
    uint64_t any = folded[0] | folded[1] | folded[2] | folded[3] | folded[4] | folded[5] | folded[6] | folded[7];
    if (any == 0) {
        return true;
    }
    *hash = XXH3_64bits(destination, MK_PAGE_SIZE);
    return false;
}

static size_t KERNEL(check_pages)(const void *pages, size_t count, const uint64_t *expected) {
    for (size_t i = 0; i < count; i++) {
        if (XXH3_64bits((const uint8_t *)pages + i * MK_PAGE_SIZE, MK_PAGE_SIZE) != expected[i]) {
            return i;
        }
    }
    return count;
}
