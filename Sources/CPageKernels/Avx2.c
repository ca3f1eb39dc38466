/* The kernels for CPUs with AVX2. The attribute stands in for -mavx2, which a package that is to be used as a
   dependency may not pass. */
#include "Variants.h"

#include <immintrin.h>
#include <string.h>

#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#define XXH_INLINE_ALL
#define XXH_VECTOR 2 /* XXH_AVX2 */
#include <xxhash.h>

#define KERNEL(name) avx2_##name
#include "Kernels.h"

const struct mk_kernels mk_kernels_avx2 = {avx2_copy_hash_page, avx2_check_pages};
#pragma clang attribute pop
