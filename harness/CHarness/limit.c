// The copy loop: what no migration that copies and hashes each page can beat, over the same transport and number of
// connections. Each lane copies 256 KiB of pages into a buffer that stays in L2, hashes each page there, and sends
// the hashes and the pages; the other side receives them into place.

#include "CHarness.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <xxh_x86dispatch.h> // the widest variant that this processor has

enum : uint64_t {
    page_bytes = 4096,
    chunk_bytes = 256 << 10,
    stripe_bytes = 2 << 20,
    pages_in_chunk = chunk_bytes / page_bytes,
};

struct lane {
    const struct harness_limit *limit;
    uint8_t *memory;
    int index;
    int error;
    uint64_t wrong_pages;
    uint64_t once;
    uint8_t *buffer;
    uint64_t hashes[pages_in_chunk];
};

static uint64_t now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

void *harness_limit_memory(uint64_t bytes, int fill, int populate) {
    // Room to start on a huge page.
    uint8_t *raw = mmap(NULL, bytes + stripe_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) {
        return NULL;
    }
    uint8_t *memory = (uint8_t *)(((uintptr_t)raw + stripe_bytes - 1) & ~(uintptr_t)(stripe_bytes - 1));
    size_t head = (size_t)(memory - raw), tail = stripe_bytes - head;
    if (head > 0) {
        munmap(raw, head);
    }
    if (tail > 0) {
        munmap(memory + bytes, tail);
    }
    madvise(memory, bytes, MADV_HUGEPAGE);
    if (fill) {
        uint64_t state = 0x9e3779b97f4a7c15u;
        for (uint64_t offset = 0; offset < bytes; offset += 8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            memcpy(memory + offset, &state, 8);
        }
    } else if (populate) {
        for (uint64_t offset = 0; offset < bytes; offset += page_bytes) {
            ((volatile uint8_t *)memory)[offset] = 0;
        }
    }
    return memory;
}

/// Moves all of `parts` in one direction; 0 or an errno.
static int move_all(int socket, struct iovec *parts, int count, bool out) {
    while (count > 0) {
        ssize_t moved = out ? writev(socket, parts, count) : readv(socket, parts, count);
        if (moved == 0 && !out) {
            return ECONNRESET;
        }
        if (moved < 0) {
            if (errno == EINTR) {
                continue;
            }
            return errno;
        }
        while (count > 0 && (size_t)moved >= parts->iov_len) {
            moved -= (ssize_t)parts->iov_len;
            parts++;
            count--;
        }
        if (count > 0) {
            parts->iov_base = (uint8_t *)parts->iov_base + moved;
            parts->iov_len -= (size_t)moved;
        }
    }
    return 0;
}

static int send_chunk(struct lane *lane, uint8_t *pages) {
    for (uint64_t page = 0; page < pages_in_chunk; page++) {
        uint8_t *copy = lane->buffer + page * page_bytes;
        memcpy(copy, pages + page * page_bytes, page_bytes);
        lane->hashes[page] = XXH3_64bits(copy, page_bytes);
    }
    struct iovec parts[2] = {
        {.iov_base = lane->hashes, .iov_len = sizeof lane->hashes},
        {.iov_base = lane->buffer, .iov_len = chunk_bytes},
    };
    return move_all(lane->limit->sockets[lane->index], parts, 2, true);
}

static int receive_chunk(struct lane *lane, uint8_t *pages) {
    struct iovec parts[2] = {
        {.iov_base = lane->hashes, .iov_len = sizeof lane->hashes},
        {.iov_base = pages, .iov_len = chunk_bytes},
    };
    int error = move_all(lane->limit->sockets[lane->index], parts, 2, false);
    if (error == 0 && lane->limit->verify) {
        for (uint64_t page = 0; page < pages_in_chunk; page++) {
            lane->wrong_pages += XXH3_64bits(pages + page * page_bytes, page_bytes) != lane->hashes[page];
        }
    }
    return error;
}

/// A stripe of 2 MiB belongs to one lane, as in a migration.
static int each_stripe(struct lane *lane, int (*move_chunk)(struct lane *, uint8_t *)) {
    const struct harness_limit *limit = lane->limit;
    uint64_t stripes_in_memory = limit->memory_bytes / stripe_bytes;
    for (uint64_t done = 0; done < limit->total_bytes; done += stripe_bytes) {
        uint64_t stripe = done / stripe_bytes % stripes_in_memory;
        if ((int)(stripe % (uint64_t)limit->lanes) != lane->index) {
            continue;
        }
        if (done >= limit->memory_bytes && lane->once == 0) {
            lane->once = now(CLOCK_MONOTONIC);
        }
        for (uint64_t chunk = 0; chunk < stripe_bytes; chunk += chunk_bytes) {
            int error = move_chunk(lane, lane->memory + stripe * stripe_bytes + chunk);
            if (error != 0) {
                return error;
            }
        }
    }
    if (lane->once == 0) {
        lane->once = now(CLOCK_MONOTONIC);
    }
    return 0;
}

static void *send_lane(void *context) {
    struct lane *lane = context;
    lane->error = each_stripe(lane, send_chunk);
    // The other side answers when it has everything.
    if (lane->error == 0) {
        uint8_t byte;
        struct iovec part = {.iov_base = &byte, .iov_len = 1};
        lane->error = move_all(lane->limit->sockets[lane->index], &part, 1, false);
    }
    return NULL;
}

static void *receive_lane(void *context) {
    struct lane *lane = context;
    lane->error = each_stripe(lane, receive_chunk);
    if (lane->error == 0) {
        uint8_t byte = 1;
        struct iovec part = {.iov_base = &byte, .iov_len = 1};
        lane->error = move_all(lane->limit->sockets[lane->index], &part, 1, true);
    }
    return NULL;
}

static int run_lanes(
    const struct harness_limit *limit, void *memory, struct harness_limit_result *result, void *(*body)(void *)) {
    struct lane lanes[16];
    pthread_t threads[16];
    if (limit->lanes < 1 || limit->lanes > 16 || limit->memory_bytes == 0) {
        return -EINVAL;
    }
    memset(result, 0, sizeof *result);
    memset(lanes, 0, sizeof lanes);
    uint8_t *buffers = mmap(
        NULL, (size_t)limit->lanes * chunk_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (buffers == MAP_FAILED) {
        return -errno;
    }
    result->started = now(CLOCK_MONOTONIC);
    uint64_t cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    int started = 0, error = 0;
    for (; started < limit->lanes; started++) {
        struct lane *lane = &lanes[started];
        lane->limit = limit;
        lane->memory = memory;
        lane->index = started;
        lane->buffer = buffers + (size_t)started * chunk_bytes;
        error = pthread_create(&threads[started], NULL, body, lane);
        if (error != 0) {
            break;
        }
    }
    for (int index = 0; index < started; index++) {
        pthread_join(threads[index], NULL);
        if (error == 0) {
            error = lanes[index].error;
        }
        result->wrong_pages += lanes[index].wrong_pages;
        if (lanes[index].once > result->once) {
            result->once = lanes[index].once;
        }
    }
    result->cpu_nanoseconds = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    result->finished = now(CLOCK_MONOTONIC);
    munmap(buffers, (size_t)limit->lanes * chunk_bytes);
    return -error;
}

int harness_limit_send(const struct harness_limit *limit, void *memory, struct harness_limit_result *result) {
    return run_lanes(limit, memory, result, send_lane);
}

int harness_limit_receive(const struct harness_limit *limit, void *memory, struct harness_limit_result *result) {
    return run_lanes(limit, memory, result, receive_lane);
}

int harness_wash_memory(uint64_t bytes) {
    bytes &= ~(stripe_bytes - 1);
    if (bytes == 0) {
        return 0;
    }
    uint8_t *memory = harness_limit_memory(bytes, 0, 1);
    if (memory == NULL) {
        return -errno;
    }
    munmap(memory, bytes);
    return 0;
}
