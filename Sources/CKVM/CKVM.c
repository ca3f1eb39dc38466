#include "CKVM.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

// Sizes are part of the kernel's ABI; a header that disagrees must not compile.
_Static_assert(sizeof(struct uffdio_move) == 40, "uffdio_move");
_Static_assert(sizeof(struct page_region) == 24, "page_region");
_Static_assert(sizeof(struct pm_scan_arg) == 96, "pm_scan_arg");
_Static_assert(sizeof(struct kvm_dirty_gfn) == 16, "kvm_dirty_gfn");
_Static_assert(sizeof(struct kvm_sregs2) == 320, "kvm_sregs2");
_Static_assert(sizeof(struct uffd_msg) == 32, "uffd_msg");
_Static_assert(CKVM_MADV_HUGEPAGE == MADV_HUGEPAGE, "MADV_HUGEPAGE");
_Static_assert(CKVM_MADV_POPULATE_WRITE == MADV_POPULATE_WRITE, "MADV_POPULATE_WRITE");

static long checked(long result) { return result < 0 ? -(long)errno : result; }

long ckvm_ioctl(int fd, unsigned long request, unsigned long argument) { return checked(ioctl(fd, request, argument)); }
long ckvm_ioctl_pointer(int fd, unsigned long request, void *argument) { return checked(ioctl(fd, request, argument)); }

int ckvm_open(const char *path, int flags) { return (int)checked(open(path, flags | O_CLOEXEC, 0600)); }

int ckvm_mmap(size_t length, int protection, int flags, int fd, off_t offset, void **result) {
    void *base = mmap(NULL, length, protection, flags, fd, offset);
    if (base == MAP_FAILED) return -errno;
    *result = base;
    return 0;
}

int ckvm_munmap(void *base, size_t length) { return (int)checked(munmap(base, length)); }
int ckvm_forget_code(void) {
    /* Set by the linker. What lies between them is mapped from the file and never written. */
    extern char __executable_start[], etext[];
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = ((uintptr_t)__executable_start + page - 1) / page * page;
    uintptr_t end = (uintptr_t)etext / page * page;
    return end > start ? (int)checked(madvise((void *)start, end - start, MADV_DONTNEED)) : 0;
}
int ckvm_madvise(void *base, size_t length, int advice) { return (int)checked(madvise(base, length, advice)); }
int ckvm_mincore(void *base, size_t length, unsigned char *pages) { return (int)checked(mincore(base, length, pages)); }

int ckvm_memfd_create(const char *name, unsigned int flags) { return (int)checked(memfd_create(name, flags)); }
int ckvm_ftruncate(int fd, off_t length) { return (int)checked(ftruncate(fd, length)); }
int ckvm_fallocate(int fd, int mode, off_t offset, off_t length) {
    return (int)checked(fallocate(fd, mode, offset, length));
}
long ckvm_lseek(int fd, off_t offset, int whence) { return checked(lseek(fd, offset, whence)); }
long ckvm_pread(int fd, void *buffer, size_t length, off_t offset) {
    return checked(pread(fd, buffer, length, offset));
}
long ckvm_read(int fd, void *buffer, size_t length) { return checked(read(fd, buffer, length)); }
int ckvm_userfaultfd(int flags) { return (int)checked(syscall(SYS_userfaultfd, flags)); }
int ckvm_eventfd(unsigned int value, int flags) { return (int)checked(eventfd(value, flags)); }

int ckvm_io_uring_probe(void) {
    struct io_uring_params params = {0};
    long fd = checked(syscall(SYS_io_uring_setup, 1, &params));
    if (fd < 0) return (int)fd;
    close((int)fd);
    return 0;
}

int ckvm_gettid(void) { return (int)syscall(SYS_gettid); }
int ckvm_tgkill(int tgid, int tid, int signal) { return (int)checked(syscall(SYS_tgkill, tgid, tid, signal)); }

int ckvm_set_thread_name(const char *name) {
    char cut[16];
    strncpy(cut, name, sizeof cut - 1);
    cut[sizeof cut - 1] = 0;
    return -pthread_setname_np(pthread_self(), cut);
}

long ckvm_futex_wait(const uint32_t *word, uint32_t expected, const struct timespec *relative_timeout) {
    return checked(syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, relative_timeout, NULL, 0));
}
long ckvm_futex_wake(const uint32_t *word, int count) {
    return checked(syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0));
}

int ckvm_kick_signal(void) { return SIGRTMIN; }

static void ignore_kick(int signal) { (void)signal; }

int ckvm_install_kick_handler(void) {
    struct sigaction action = {.sa_handler = ignore_kick};
    sigemptyset(&action.sa_mask);
    return (int)checked(sigaction(ckvm_kick_signal(), &action, NULL));
}

int ckvm_unblock_kick_signal(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, ckvm_kick_signal());
    return -pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

int ckvm_keep_only_kick_signal(void) {
    sigset_t set;
    sigfillset(&set);
    sigdelset(&set, ckvm_kick_signal());
    return -pthread_sigmask(SIG_SETMASK, &set, NULL);
}

long ckvm_reset_dirty_rings(int vm_fd) {
    sigset_t all, before;
    sigfillset(&all);
    int error = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (error) return -error;
    long result = checked(ioctl(vm_fd, KVM_RESET_DIRTY_RINGS, 0));
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return result;
}

int64_t ckvm_realtime_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec;
}

uint64_t ckvm_monotonic_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t ckvm_read_tsc(void) { return __rdtsc(); }

const char *ckvm_errno_name(int number) { return strerrorname_np(number); }
const char *ckvm_errno_description(int number) { return strerrordesc_np(number); }
