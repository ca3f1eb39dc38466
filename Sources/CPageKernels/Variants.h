/* The table of kernels that a CPU is given at start. */
#pragma once

#include "CPageKernels.h"

struct mk_kernels {
    bool (*copy_hash_page)(void *, const void *, uint64_t *);
    size_t (*check_pages)(const void *, size_t, const uint64_t *);
};

extern const struct mk_kernels mk_kernels_avx2;
