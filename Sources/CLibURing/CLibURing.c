#include "CLibURing.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

_Static_assert(CUR_PUNCH_HOLE == (FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE), "FALLOC_FL_PUNCH_HOLE");
_Static_assert(CUR_ZERO_RANGE == (FALLOC_FL_KEEP_SIZE | FALLOC_FL_ZERO_RANGE), "FALLOC_FL_ZERO_RANGE");

static long checked(long result) { return result < 0 ? -(long)errno : result; }

struct cur_ring {
    struct io_uring ring;
    int event_fd;
};

int cur_ring_create(unsigned entries, cur_ring **result, int *event_fd) {
    cur_ring *ring = calloc(1, sizeof *ring);
    if (!ring) return -ENOMEM;
    int error = io_uring_queue_init(entries, &ring->ring, 0);
    if (error < 0) {
        free(ring);
        return error;
    }
    ring->event_fd = cur_eventfd();
    error = ring->event_fd < 0 ? ring->event_fd : io_uring_register_eventfd(&ring->ring, ring->event_fd);
    if (error < 0) {
        if (ring->event_fd >= 0) close(ring->event_fd);
        io_uring_queue_exit(&ring->ring);
        free(ring);
        return error;
    }
    *result = ring;
    *event_fd = ring->event_fd;
    return 0;
}

void cur_ring_destroy(cur_ring *ring) {
    io_uring_queue_exit(&ring->ring);
    close(ring->event_fd);
    free(ring);
}

// The tag is stored as the 64-bit word it is, not through a pointer.
static void set_tag(struct io_uring_sqe *sqe, uint64_t tag) { sqe->user_data = tag; }

int cur_ring_readv(
    cur_ring *ring, int fd, const struct iovec *vectors, unsigned count, uint64_t offset, uint64_t tag
) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->ring);
    if (!sqe) return -EBUSY;
    io_uring_prep_readv(sqe, fd, vectors, count, offset);
    set_tag(sqe, tag);
    return 0;
}

int cur_ring_writev(
    cur_ring *ring, int fd, const struct iovec *vectors, unsigned count, uint64_t offset, uint64_t tag
) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->ring);
    if (!sqe) return -EBUSY;
    io_uring_prep_writev(sqe, fd, vectors, count, offset);
    set_tag(sqe, tag);
    return 0;
}

int cur_ring_fdatasync(cur_ring *ring, int fd, uint64_t tag) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->ring);
    if (!sqe) return -EBUSY;
    io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    set_tag(sqe, tag);
    return 0;
}

int cur_ring_fallocate(cur_ring *ring, int fd, int mode, uint64_t offset, uint64_t length, uint64_t tag) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->ring);
    if (!sqe) return -EBUSY;
    io_uring_prep_fallocate(sqe, fd, mode, (off_t)offset, (off_t)length);
    set_tag(sqe, tag);
    return 0;
}

int cur_ring_submit(cur_ring *ring, unsigned wait_for) {
    return wait_for ? io_uring_submit_and_wait(&ring->ring, wait_for) : io_uring_submit(&ring->ring);
}

bool cur_ring_take(cur_ring *ring, uint64_t *tag, int32_t *result) {
    struct io_uring_cqe *cqe = NULL;
    if (io_uring_peek_cqe(&ring->ring, &cqe) != 0 || !cqe) return false;
    *tag = cqe->user_data;
    *result = cqe->res;
    io_uring_cqe_seen(&ring->ring, cqe);
    return true;
}

int cur_file_info(int fd, struct cur_file_info *info) {
    struct stat status;
    if (fstat(fd, &status) < 0) return -errno;
    memset(info, 0, sizeof *info);
    info->is_regular = S_ISREG(status.st_mode);
    info->is_block_device = S_ISBLK(status.st_mode);
    // Of a block device the device itself counts, not the node that leads to it.
    info->device = info->is_block_device ? status.st_rdev : status.st_dev;
    info->inode = info->is_block_device ? 0 : status.st_ino;
    info->size = (uint64_t)status.st_size;
    if (info->is_block_device) {
        uint64_t size = 0;
        int sector = 0;
        if (ioctl(fd, BLKGETSIZE64, &size) < 0) return -errno;
        info->size = size;
        if (ioctl(fd, BLKSSZGET, &sector) == 0 && sector > 0) {
            info->direct_offset_alignment = info->direct_memory_alignment = (uint32_t)sector;
        }
    }
#ifdef STATX_DIOALIGN
    struct statx extended;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &extended) == 0 && (extended.stx_mask & STATX_DIOALIGN)
        && extended.stx_dio_offset_align) {
        info->direct_memory_alignment = extended.stx_dio_mem_align;
        info->direct_offset_alignment = extended.stx_dio_offset_align;
    }
#endif
    return 0;
}

int cur_open_file(const char *path, bool writable, bool direct) {
    int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | (direct ? O_DIRECT : 0);
    int fd = (int)checked(open(path, flags));
    if (fd < 0) return fd;
    // Non-blocking was for the opening alone: io_uring would give up instead of waiting.
    int now = fcntl(fd, F_GETFL);
    if (now < 0 || fcntl(fd, F_SETFL, now & ~O_NONBLOCK) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

int cur_lock_file(int fd, bool exclusive) {
    struct flock lock = {.l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
    int result = (int)checked(fcntl(fd, F_OFD_SETLK, &lock));
    return result == -EACCES ? -EAGAIN : result;
}

int cur_unlock_file(int fd) {
    struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
    return (int)checked(fcntl(fd, F_OFD_SETLK, &lock));
}

long cur_preadv(int fd, const struct iovec *vectors, int count, uint64_t offset) {
    return checked(preadv(fd, vectors, count, (off_t)offset));
}
long cur_pwritev(int fd, const struct iovec *vectors, int count, uint64_t offset) {
    return checked(pwritev(fd, vectors, count, (off_t)offset));
}
int cur_fallocate(int fd, int mode, uint64_t offset, uint64_t length) {
    return (int)checked(fallocate(fd, mode, (off_t)offset, (off_t)length));
}
int cur_fdatasync(int fd) { return (int)checked(fdatasync(fd)); }

int cur_open_tap(const char *name, int header_length) {
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    if (strlen(name) >= sizeof request.ifr_name) return -ENAMETOOLONG;
    strcpy(request.ifr_name, name);
    int fd = (int)checked(open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
    if (fd < 0) return fd;
    if (ioctl(fd, TUNSETIFF, &request) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &header_length) < 0) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

int cur_set_tap_offload(int fd, bool checksum, bool tso4, bool tso6) {
    unsigned flags = (checksum ? TUN_F_CSUM : 0) | (tso4 ? TUN_F_TSO4 : 0) | (tso6 ? TUN_F_TSO6 : 0);
    return (int)checked(ioctl(fd, TUNSETOFFLOAD, flags));
}

bool cur_interface_exists(const char *name) {
    char path[64];
    if (strlen(name) >= IFNAMSIZ || strchr(name, '/') || !*name) return false;
    strcpy(path, "/sys/class/net/");
    strcat(path, name);
    return access(path, F_OK) == 0;
}

long cur_readv(int fd, const struct iovec *vectors, int count) { return checked(readv(fd, vectors, count)); }
long cur_writev(int fd, const struct iovec *vectors, int count) { return checked(writev(fd, vectors, count)); }

int cur_random(void *buffer, size_t length) {
    uint8_t *next = buffer;
    while (length > 0) {
        ssize_t count = getrandom(next, length, 0);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return -errno;
        next += count;
        length -= (size_t)count;
    }
    return 0;
}

int cur_eventfd(void) { return (int)checked(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }
void cur_eventfd_signal(int fd) {
    // EAGAIN would mean that the count is at its end: then it is readable already.
    uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR) {}
}
void cur_eventfd_clear(int fd) {
    uint64_t count;
    while (read(fd, &count, sizeof count) < 0 && errno == EINTR) {}
}

int cur_set_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0) return -errno;
    return (int)checked(fcntl(fd, F_SETFL, flags | O_NONBLOCK));
}

const char *cur_error_text(int number) { return strerrordesc_np(number); }

void cur_prepare_thread(const char *name) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    char cut[16];
    strncpy(cut, name, sizeof cut - 1);
    cut[sizeof cut - 1] = 0;
    pthread_setname_np(pthread_self(), cut);
}
