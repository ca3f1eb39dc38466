// What the workloads of a test guest share. One static program, `guest-tool`, in the guest and outside.

#ifndef GUEST_TOOL_H
#define GUEST_TOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int memory_main(int argc, char **argv);
int journal_main(int argc, char **argv);
int check_journal_main(int argc, char **argv);
int serve_main(int argc, char **argv);
int ask_main(int argc, char **argv);
int clocks_main(int argc, char **argv);

/// Ends the program with a message that ends with errno's meaning.
void fail(const char *what) __attribute__((noreturn));

/// The number after `name=` among the arguments.
long option(int argc, char **argv, const char *name, long otherwise);
/// The text after `name=` among the arguments.
const char *text_option(int argc, char **argv, const char *name, const char *otherwise);

/// Fills a block with content that follows from a seed, and sums a block: every bit counts, and so does its place.
void fill(uint64_t *words, size_t count, uint64_t seed);
uint64_t sum(const uint64_t *words, size_t count);

uint64_t monotonic_nanoseconds(void);

/// Writes a small file whole: a reader sees the old text or the new one.
void publish(const char *path, const char *text);

#endif
