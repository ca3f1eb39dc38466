/* The loops that touch every byte of guest memory: copy, hash and look for zeros in one pass. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MK_PAGE_SIZE 4096

/* XXH3-64 of `length` bytes. */
uint64_t mk_hash(const void *_Nonnull bytes, size_t length, uint64_t seed);

/* XXH3-64 with seed of two pieces, as if they were one. */
uint64_t mk_hash_two(const void *_Nonnull first, size_t first_length, const void *_Nullable second,
                     size_t second_length, uint64_t seed);

/* Copies a page that may change meanwhile. Returns true if the copy is all zeros (then *hash is not set); otherwise
   *hash is the XXH3-64 of the copy, not of the source. */
bool mk_copy_hash_page(void *_Nonnull destination, const void *_Nonnull source, uint64_t *_Nonnull hash);

/* Hashes `count` pages and compares with `expected`. Returns the index of the first that differs, or `count`. */
size_t mk_check_pages(const void *_Nonnull pages, size_t count, const uint64_t *_Nonnull expected);

/* The hash of a page of zeros. */
uint64_t mk_zero_page_hash(void);
