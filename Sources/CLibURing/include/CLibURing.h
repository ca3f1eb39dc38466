// What the virtio devices need of C: io_uring through liburing (whose functions are mostly inline, so that Swift does not
// see them), the memory ordering of virtqueue indices, and Linux calls behind variadic prototypes or macros. Calls return
// a value >= 0, or -errno.

#ifndef CLIBURING_H
#define CLIBURING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

// --- io_uring -------------------------------------------------------------------------------------------------------

/// A ring; its structure stays on the C side.
typedef struct cur_ring cur_ring;

/// Makes a ring of `entries` submission entries and an eventfd that counts its completions. On failure nothing is left.
int cur_ring_create(unsigned entries, cur_ring *_Nullable *_Nonnull result, int *_Nonnull event_fd);
void cur_ring_destroy(cur_ring *_Nonnull ring);

/// Each puts one request into the submission queue: 0, or -EBUSY when that is full.
int cur_ring_readv(cur_ring *_Nonnull ring, int fd, const struct iovec *_Nonnull vectors, unsigned count,
                   uint64_t offset, uint64_t tag);
int cur_ring_writev(cur_ring *_Nonnull ring, int fd, const struct iovec *_Nonnull vectors, unsigned count,
                    uint64_t offset, uint64_t tag);
int cur_ring_fdatasync(cur_ring *_Nonnull ring, int fd, uint64_t tag);
int cur_ring_fallocate(cur_ring *_Nonnull ring, int fd, int mode, uint64_t offset, uint64_t length, uint64_t tag);

/// Hands over what was put in; `wait_for` completions are awaited.
int cur_ring_submit(cur_ring *_Nonnull ring, unsigned wait_for);
/// Takes the next completion: true if there was one.
bool cur_ring_take(cur_ring *_Nonnull ring, uint64_t *_Nonnull tag, int32_t *_Nonnull result);

// --- Ring indices shared with the guest (virtio 1.2, 2.7.13) -----------------------------------------------------------

/// A load that nothing behind it overtakes. The address is aligned to two bytes.
static inline uint16_t cur_load_acquire_u16(const void *_Nonnull address) {
    return __atomic_load_n((const uint16_t *)address, __ATOMIC_ACQUIRE);
}
/// A store that nothing before it falls behind.
static inline void cur_store_release_u16(void *_Nonnull address, uint16_t value) {
    __atomic_store_n((uint16_t *)address, value, __ATOMIC_RELEASE);
}
/// One load of a word that the guest may be changing; the compiler neither splits nor repeats it.
static inline uint16_t cur_load_u16(const void *_Nonnull address) {
    return __atomic_load_n((const uint16_t *)address, __ATOMIC_RELAXED);
}

/// An entry of a descriptor table (2.7.5).
struct cur_descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

/// Reads each field once, wherever the table lies.
static inline struct cur_descriptor cur_load_descriptor(const void *_Nonnull address) {
    struct __attribute__((packed)) shared {
        uint64_t address;
        uint32_t length;
        uint16_t flags;
        uint16_t next;
    };
    const volatile struct shared *entry = (const volatile struct shared *)address;
    struct cur_descriptor copy = {entry->address, entry->length, entry->flags, entry->next};
    return copy;
}
/// Keeps a store before it and a load behind it in order, which x86 alone does not.
static inline void cur_full_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// --- Files ----------------------------------------------------------------------------------------------------------

/// What identifies a file and how it is to be accessed.
struct cur_file_info {
    uint64_t device;
    uint64_t inode;
    /// In bytes; of a block device as well.
    uint64_t size;
    bool is_regular;
    bool is_block_device;
    /// Alignments of direct I/O; 0 where the kernel does not tell.
    uint32_t direct_memory_alignment;
    uint32_t direct_offset_alignment;
};

int cur_file_info(int fd, struct cur_file_info *_Nonnull info);
/// open(2) with O_CLOEXEC added and, if asked, O_DIRECT. Never creates, never blocks on a FIFO.
int cur_open_file(const char *_Nonnull path, bool writable, bool direct);
/// An open file description lock on the whole file, without waiting: -EAGAIN when another has it.
int cur_lock_file(int fd, bool exclusive);
int cur_unlock_file(int fd);
long cur_preadv(int fd, const struct iovec *_Nonnull vectors, int count, uint64_t offset);
long cur_pwritev(int fd, const struct iovec *_Nonnull vectors, int count, uint64_t offset);
int cur_fdatasync(int fd);
int cur_fallocate(int fd, int mode, uint64_t offset, uint64_t length);

enum : int {
    /// fallocate modes; both keep the file's size.
    CUR_PUNCH_HOLE = 0x01 | 0x02,
    CUR_ZERO_RANGE = 0x01 | 0x10,
};

// --- Network, entropy, events -----------------------------------------------------------------------------------------

/// Opens an existing tap interface, non-blocking, with a virtio header of `header_length` bytes before each frame.
int cur_open_tap(const char *_Nonnull name, int header_length);
/// TUN_F_* of what the reader of a tap copes with.
int cur_set_tap_offload(int fd, bool checksum, bool tso4, bool tso6);
/// Whether there is a network interface of this name.
bool cur_interface_exists(const char *_Nonnull name);
long cur_readv(int fd, const struct iovec *_Nonnull vectors, int count);
long cur_writev(int fd, const struct iovec *_Nonnull vectors, int count);
/// getrandom(2), all of the bytes.
int cur_random(void *_Nonnull buffer, size_t length);
int cur_eventfd(void);
void cur_eventfd_signal(int fd);
void cur_eventfd_clear(int fd);
/// Makes a descriptor non-blocking.
int cur_set_nonblocking(int fd);
/// "No such file or directory" for ENOENT; NULL for unknown numbers.
const char *_Nullable cur_error_text(int number);
/// Blocks all signals of the calling thread, and names it (15 characters count).
void cur_prepare_thread(const char *_Nonnull name);

#endif
