// The one place where C meets Swift: ioctl numbers, structures newer than the oldest headers we build with, and the
// Linux calls that variadic prototypes or Glibc's overlay hide. Every call returns a value >= 0, or -errno.

#ifndef CKVM_H
#define CKVM_H

#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <linux/memfd.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/types.h>

// --- Definitions newer than Debian 12's headers (Linux 6.1) ---------------------------------------------------------

#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#endif
#ifndef UFFD_FEATURE_WP_ASYNC
#define UFFD_FEATURE_WP_ASYNC (1 << 15)
#endif
#ifndef UFFD_FEATURE_MOVE
#define UFFD_FEATURE_MOVE (1 << 16)
#endif

#ifndef UFFDIO_MOVE
#define _UFFDIO_MOVE (0x05)
struct uffdio_move {
    __u64 dst;
    __u64 src;
    __u64 len;
    __u64 mode;
    __s64 move;
};
#define UFFDIO_MOVE _IOWR(UFFDIO, _UFFDIO_MOVE, struct uffdio_move)
#endif

#ifndef PAGEMAP_SCAN
struct page_region {
    __u64 start;
    __u64 end;
    __u64 categories;
};
struct pm_scan_arg {
    __u64 size;
    __u64 flags;
    __u64 start;
    __u64 end;
    __u64 walk_end;
    __u64 vec;
    __u64 vec_len;
    __u64 max_pages;
    __u64 category_inverted;
    __u64 category_mask;
    __u64 category_anyof_mask;
    __u64 return_mask;
};
#define PAGEMAP_SCAN _IOWR('f', 16, struct pm_scan_arg)
#define PAGE_IS_WPALLOWED (1 << 0)
#define PAGE_IS_WRITTEN (1 << 1)
#define PAGE_IS_FILE (1 << 2)
#define PAGE_IS_PRESENT (1 << 3)
#define PAGE_IS_SWAPPED (1 << 4)
#define PAGE_IS_PFNZERO (1 << 5)
#define PAGE_IS_HUGE (1 << 6)
#define PM_SCAN_WP_MATCHING (1 << 0)
#define PM_SCAN_CHECK_WPASYNC (1 << 1)
#endif

#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225
#endif
#ifndef KVM_CAP_MEMORY_FAULT_INFO
#define KVM_CAP_MEMORY_FAULT_INFO 232
#endif
#ifndef KVM_CAP_GUEST_MEMFD
#define KVM_CAP_GUEST_MEMFD 234
#endif
#ifndef KVM_CAP_VM_TYPES
#define KVM_CAP_VM_TYPES 235
#endif
#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236
#endif
#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39
#endif

// --- ioctl numbers: a function-like macro is not seen by Swift, a constant of an enum is ----------------------------

enum : unsigned long {
    CKVM_GET_API_VERSION = KVM_GET_API_VERSION,
    CKVM_CREATE_VM = KVM_CREATE_VM,
    CKVM_GET_MSR_INDEX_LIST = KVM_GET_MSR_INDEX_LIST,
    CKVM_CHECK_EXTENSION = KVM_CHECK_EXTENSION,
    CKVM_GET_VCPU_MMAP_SIZE = KVM_GET_VCPU_MMAP_SIZE,
    CKVM_GET_SUPPORTED_CPUID = KVM_GET_SUPPORTED_CPUID,

    CKVM_CREATE_VCPU = KVM_CREATE_VCPU,
    CKVM_GET_DIRTY_LOG = KVM_GET_DIRTY_LOG,
    CKVM_SET_USER_MEMORY_REGION = KVM_SET_USER_MEMORY_REGION,
    CKVM_SET_TSS_ADDR = KVM_SET_TSS_ADDR,
    CKVM_SET_IDENTITY_MAP_ADDR = KVM_SET_IDENTITY_MAP_ADDR,
    CKVM_CREATE_IRQCHIP = KVM_CREATE_IRQCHIP,
    CKVM_IRQ_LINE = KVM_IRQ_LINE,
    CKVM_GET_IRQCHIP = KVM_GET_IRQCHIP,
    CKVM_SET_IRQCHIP = KVM_SET_IRQCHIP,
    CKVM_IRQFD = KVM_IRQFD,
    CKVM_CREATE_PIT2 = KVM_CREATE_PIT2,
    CKVM_IOEVENTFD = KVM_IOEVENTFD,
    CKVM_SET_CLOCK = KVM_SET_CLOCK,
    CKVM_GET_CLOCK = KVM_GET_CLOCK,
    CKVM_GET_PIT2 = KVM_GET_PIT2,
    CKVM_SET_PIT2 = KVM_SET_PIT2,
    CKVM_SIGNAL_MSI = KVM_SIGNAL_MSI,
    CKVM_ENABLE_CAP = KVM_ENABLE_CAP,
    CKVM_CLEAR_DIRTY_LOG = KVM_CLEAR_DIRTY_LOG,
    CKVM_RESET_DIRTY_RINGS = KVM_RESET_DIRTY_RINGS,

    CKVM_RUN = KVM_RUN,
    CKVM_GET_REGS = KVM_GET_REGS,
    CKVM_SET_REGS = KVM_SET_REGS,
    CKVM_GET_SREGS = KVM_GET_SREGS,
    CKVM_SET_SREGS = KVM_SET_SREGS,
    CKVM_GET_SREGS2 = KVM_GET_SREGS2,
    CKVM_SET_SREGS2 = KVM_SET_SREGS2,
    CKVM_GET_MSRS = KVM_GET_MSRS,
    CKVM_SET_MSRS = KVM_SET_MSRS,
    CKVM_GET_LAPIC = KVM_GET_LAPIC,
    CKVM_SET_LAPIC = KVM_SET_LAPIC,
    CKVM_SET_CPUID2 = KVM_SET_CPUID2,
    CKVM_GET_CPUID2 = KVM_GET_CPUID2,
    CKVM_GET_MP_STATE = KVM_GET_MP_STATE,
    CKVM_SET_MP_STATE = KVM_SET_MP_STATE,
    CKVM_GET_VCPU_EVENTS = KVM_GET_VCPU_EVENTS,
    CKVM_SET_VCPU_EVENTS = KVM_SET_VCPU_EVENTS,
    CKVM_GET_DEBUGREGS = KVM_GET_DEBUGREGS,
    CKVM_SET_DEBUGREGS = KVM_SET_DEBUGREGS,
    CKVM_GET_XSAVE = KVM_GET_XSAVE,
    CKVM_SET_XSAVE = KVM_SET_XSAVE,
    CKVM_GET_XSAVE2 = KVM_GET_XSAVE2,
    CKVM_GET_XCRS = KVM_GET_XCRS,
    CKVM_SET_XCRS = KVM_SET_XCRS,
    CKVM_GET_TSC_KHZ = KVM_GET_TSC_KHZ,
    CKVM_SET_TSC_KHZ = KVM_SET_TSC_KHZ,
    CKVM_KVMCLOCK_CTRL = KVM_KVMCLOCK_CTRL,
    CKVM_NMI = KVM_NMI,
    CKVM_SET_DEVICE_ATTR = KVM_SET_DEVICE_ATTR,
    CKVM_GET_DEVICE_ATTR = KVM_GET_DEVICE_ATTR,
    CKVM_HAS_DEVICE_ATTR = KVM_HAS_DEVICE_ATTR,

    CKVM_USERFAULTFD_IOC_NEW = USERFAULTFD_IOC_NEW,
    CKVM_UFFDIO_API = UFFDIO_API,
    CKVM_UFFDIO_REGISTER = UFFDIO_REGISTER,
    CKVM_UFFDIO_UNREGISTER = UFFDIO_UNREGISTER,
    CKVM_UFFDIO_WAKE = UFFDIO_WAKE,
    CKVM_UFFDIO_COPY = UFFDIO_COPY,
    CKVM_UFFDIO_ZEROPAGE = UFFDIO_ZEROPAGE,
    CKVM_UFFDIO_WRITEPROTECT = UFFDIO_WRITEPROTECT,
    CKVM_UFFDIO_CONTINUE = UFFDIO_CONTINUE,
    CKVM_UFFDIO_MOVE = UFFDIO_MOVE,
    CKVM_PAGEMAP_SCAN = PAGEMAP_SCAN,
};

// --- Calls ----------------------------------------------------------------------------------------------------------

/// ioctl with an integer argument.
long ckvm_ioctl(int fd, unsigned long request, unsigned long argument);
/// ioctl with a pointer argument.
long ckvm_ioctl_pointer(int fd, unsigned long request, void *argument);

/// open(2) with O_CLOEXEC added.
int ckvm_open(const char *path, int flags);
/// A page-aligned mapping; `*result` is set when the call returns 0.
int ckvm_mmap(size_t length, int protection, int flags, int fd, off_t offset, void **result);
int ckvm_munmap(void *base, size_t length);
int ckvm_madvise(void *base, size_t length, int advice);
/// Unmaps this program's code and constants; what is still needed comes back from the page cache. 0 or -errno.
int ckvm_forget_code(void);
/// mincore(2): one byte a page of 4 KiB.
int ckvm_mincore(void *base, size_t length, unsigned char *pages);

int ckvm_memfd_create(const char *name, unsigned int flags);
int ckvm_ftruncate(int fd, off_t length);
int ckvm_fallocate(int fd, int mode, off_t offset, off_t length);
/// lseek(2): the position, or -errno.
long ckvm_lseek(int fd, off_t offset, int whence);
long ckvm_pread(int fd, void *buffer, size_t length, off_t offset);
long ckvm_read(int fd, void *buffer, size_t length);
/// userfaultfd(2), the system call.
int ckvm_userfaultfd(int flags);
int ckvm_eventfd(unsigned int value, int flags);
/// Sets an io_uring of one entry up and closes it again: 0, or -errno with the kernel's reason against io_uring.
int ckvm_io_uring_probe(void);

int ckvm_gettid(void);
int ckvm_tgkill(int tgid, int tid, int signal);
/// Names the calling thread (15 characters count).
int ckvm_set_thread_name(const char *name);
long ckvm_futex_wait(const uint32_t *word, uint32_t expected, const struct timespec *relative_timeout);
long ckvm_futex_wake(const uint32_t *word, int count);

/// The signal that kicks a vCPU thread out of KVM_RUN (a real-time signal: no library uses it by chance).
int ckvm_kick_signal(void);
/// Installs an empty handler for the kick signal, without SA_RESTART: a blocking call returns EINTR.
int ckvm_install_kick_handler(void);
/// Lets the calling thread receive the kick signal: threads made from Swift's concurrency inherit it blocked.
int ckvm_unblock_kick_signal(void);
/// Blocks every signal for the calling thread except the kick signal, which it unblocks: a vCPU thread has no other
/// business with signals, and a process-wide SIGTERM is for the main thread.
int ckvm_keep_only_kick_signal(void);

/// KVM_RESET_DIRTY_RINGS with all signals of the calling thread blocked. Some kernels (6.18 was seen to) stop early
/// when a signal is pending, and then leave pages of the batch unprotected for good.
long ckvm_reset_dirty_rings(int vm_fd);

/// CLOCK_MONOTONIC in nanoseconds.
uint64_t ckvm_monotonic_nanoseconds(void);
/// CLOCK_REALTIME: seconds since 1970.
int64_t ckvm_realtime_seconds(void);
/// The time stamp counter of this CPU.
uint64_t ckvm_read_tsc(void);

/// "EBADF" for EBADF; NULL for unknown numbers.
const char *ckvm_errno_name(int number);
/// "Bad file descriptor" for EBADF, NULL for unknown numbers.
const char *ckvm_errno_description(int number);

/// madvise(2) advice, where headers may lack a name.
enum : int {
    CKVM_MADV_DONTNEED = 4,
    CKVM_MADV_REMOVE = 9,
    CKVM_MADV_DONTFORK = 10,
    CKVM_MADV_HUGEPAGE = 14,
    CKVM_MADV_NOHUGEPAGE = 15,
    CKVM_MADV_DONTDUMP = 16,
    CKVM_MADV_POPULATE_READ = 22,
    CKVM_MADV_POPULATE_WRITE = 23,
    CKVM_MADV_COLLAPSE = 25,
};

// --- Words shared with the kernel -----------------------------------------------------------------------------------

static inline void ckvm_set_immediate_exit(struct kvm_run *run, uint8_t value) {
    __atomic_store_n(&run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

/// Takes up to `capacity` dirty entries from a vCPU's ring, `*next` being the position of the first one that was not
/// yet taken, and marks them as to be reset. `entry_count` is a power of two.
static inline uint32_t ckvm_dirty_ring_take(
    struct kvm_dirty_gfn *ring, uint32_t entry_count, uint32_t *next, struct kvm_dirty_gfn *taken, uint32_t capacity
) {
    uint32_t count = 0;
    while (count < capacity) {
        struct kvm_dirty_gfn *entry = &ring[*next & (entry_count - 1)];
        // Pairs with the kernel's release of the flag: slot and offset are read after it.
        uint32_t flags = __atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE);
        if ((flags & KVM_DIRTY_GFN_F_MASK) != KVM_DIRTY_GFN_F_DIRTY) break;
        taken[count].flags = flags;
        taken[count].slot = entry->slot;
        taken[count].offset = entry->offset;
        count++;
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        *next += 1;
    }
    return count;
}

#endif
