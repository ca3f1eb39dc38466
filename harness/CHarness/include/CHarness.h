/// C parts of the harness: starting processes that die with their parent, and the copy loop that is the limit of what a
/// migration can reach.
#pragma once

#include <stdint.h>
#include <sys/types.h>

/// Starts `path` with `arguments` and `environment` (both ended by NULL) in a process group of its own, with the three
/// descriptors as its standard ones. It is killed if the calling *thread* ends, so call it from the main thread.
/// Returns its id, or -errno.
pid_t harness_spawn(
    const char *_Nonnull path, char *_Nullable const *_Nonnull arguments, char *_Nullable const *_Nonnull environment,
    int input, int output, int error);

/// From now on SIGINT, SIGTERM and SIGHUP only set a flag, and SIGPIPE does nothing.
void harness_catch_signals(void);

/// The last signal caught, or 0.
int harness_caught_signal(void);

/// The processor's time stamp counter.
uint64_t harness_tsc(void);

/// Listens on a UNIX socket, or with NULL on a free port of the loopback interface. All three return a descriptor or
/// -errno.
int harness_listen(const char *_Nullable path, uint16_t *_Nonnull port);
int harness_accept(int listener);
int harness_connect(const char *_Nullable path, uint16_t port);

/// One side of the copy loop.
struct harness_limit {
    /// Bytes of memory on each side; a multiple of 2 MiB.
    uint64_t memory_bytes;
    /// Bytes to move: the memory once, and more passes over its start until this is reached. A multiple of 2 MiB.
    uint64_t total_bytes;
    /// Connections, each with a thread on each side (1 to 16).
    int lanes;
    /// Receiver: hash each page that has come and compare.
    int verify;
    /// Receiver: memory is populated before the first byte; otherwise it is never touched before.
    int populate;
    /// One connected socket a lane.
    int sockets[16];
};

struct harness_limit_result {
    /// CLOCK_MONOTONIC nanoseconds of this side's first byte, of the moment when the memory had been moved once, and of
    /// the end.
    uint64_t started;
    uint64_t once;
    uint64_t finished;
    /// CPU of the whole process between start and end.
    uint64_t cpu_nanoseconds;
    /// Pages whose hash was wrong (receiver, with `verify`).
    uint64_t wrong_pages;
};

/// Memory as both sides need it, with transparent huge pages where the kernel gives them; NULL and errno on failure.
/// `fill` writes incompressible bytes, otherwise `populate` touches it.
void *_Nullable harness_limit_memory(uint64_t bytes, int fill, int populate);

/// Both return 0 or -errno.
int harness_limit_send(
    const struct harness_limit *_Nonnull limit, void *_Nonnull memory, struct harness_limit_result *_Nonnull result);
int harness_limit_receive(
    const struct harness_limit *_Nonnull limit, void *_Nonnull memory, struct harness_limit_result *_Nonnull result);

/// Touches `bytes` of memory and gives them back. Returns 0 or -errno.
int harness_wash_memory(uint64_t bytes);
