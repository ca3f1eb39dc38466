// Where everything lies, in guest physical addresses. Below 1 GiB virtual and physical addresses are the same.
//
//   0x008000            the trampoline of application processors (copied there; only with more than one vCPU)
//   0x100000            the image: ELF header, shared page, vCPU entries, tables, code
//   0x140000            one block of 8 KiB per vCPU (bss)
//   0x1c0000            globals, line buffer, page directories of the direct map, weights (bss)
//   0x200000            heap: page directories of the owned memory, one 16 byte expectation per owned page
//   next 2 MiB border   owned memory
//
// Virtual addresses above 1 GiB:
//
//   0x40000000          the local APIC's page
//   0x8000000000        the first 4 GiB of physical memory (to read what the boot loader left anywhere there)
//   0x10000000000       the owned memory, without the holes of the memory map: page number n is at n * 4096

#define PAGE_SIZE 0x1000
#define LARGE_PAGE 0x200000

// Fixed places in the image. They need not be labels, because descriptors and gates hold their addresses in slices,
// which an assembler cannot make of label differences.
#define PML4            0x10a000
#define PDPT_LOW        0x10b000
#define PD_LOW          0x10c000
#define PD_APIC         0x10d000
#define PDPT_DIRECT     0x10e000
#define PDPT_OWNED      0x10f000
#define IDT             0x110000
#define STUBS           0x111000
#define STUB_TIMER      (STUBS + 0x200)
#define STUB_SPURIOUS   (STUBS + 0x240)
#define STUB_DEADLINE   (STUBS + 0x280)
#define GDT             0x112000
#define TSS             0x113000
#define TSS_BYTES       512

// Port I/O from ring 3 is allowed twice. By IOPL 3, which kvm_pvm does not honour; and by the task's bitmap, which QEMU's
// emulator stops to honour once a KVM inside it has restored a task register (it knows only tasks that are not busy).
#define USER_FLAGS      0x3002

// The bitmap covers the ports below 0x600 (serial line, timers, interrupt controllers, exit port) and ends with the byte of
// ones that the processor wants.
#define IO_BITMAP_BYTES 0xc0
#define TSS_LIMIT       (0x68 + IO_BITMAP_BYTES)

#define TABLES_END      (TSS + TSS_BYTES * SELFTEST_MAX_VCPUS)

// bss.
#define BSS_START       0x140000
#define CPU_BLOCKS      BSS_START
#define CPU_BLOCK_BYTES 0x2000
#define GLOBALS         0x1c0000
#define COMMAND_LINE    0x1c1000
#define LINE            0x1c2000
#define LINE_END        0x1c2f00
#define MEMORY_MAP      0x1c3000
#define MEMORY_MAP_MAX  128
#define WEIGHTS         0x1c4000
#define PD_DIRECT       0x1c5000
#define BSS_END         0x1c9000
#define HEAP_START      0x200000

#define TRAMPOLINE      0x8000

// Virtual addresses.
#define APIC            0x40000000
#define DIRECT          0x8000000000
#define OWNED           0x10000000000

// Page table bits. Accessed and dirty are set from the start, so that neither the processor nor a shadow pager ever has
// a reason to write into the tables.
#define PT_TABLE        0x027
#define PT_LARGE        0x0e7
#define PT_LARGE_DEVICE 0x0ff

// Selectors. User data and code have the numbers that Linux gives them, because kvm_pvm shows the host's anyway.
#define CODE32          0x08
#define CODE64          0x10
#define DATA            0x18
#define USER_DATA       0x2b
#define USER_CODE       0x33
#define TSS_SELECTOR    0x40

// Interrupt vectors.
#define VECTOR_BREAKPOINT 3
#define VECTOR_TIMER    0x40
#define VECTOR_SPURIOUS 0xff

// Local APIC registers, as offsets into its page.
#define APIC_ID         0x020
#define APIC_EOI        0x0b0
#define APIC_SPURIOUS   0x0f0
#define APIC_ICR        0x300
#define APIC_ICR_HIGH   0x310
#define APIC_LVT_TIMER  0x320
#define APIC_LVT_LINT0  0x350
#define APIC_LVT_LINT1  0x360
#define APIC_TIMER_INIT 0x380
#define APIC_TIMER_NOW  0x390
#define APIC_TIMER_DIV  0x3e0

// The block of a vCPU. r15 points to it whenever ring 3 runs; r14 points to its entry in the shared area.
#define C_INDEX         0x000
#define C_SEQUENCE      0x008
#define C_LAST_TSC      0x010
#define C_RANDOM        0x018
#define C_FIRST         0x020   // first page of this vCPU's slice
#define C_COUNT         0x028   // pages in the slice
#define C_INIT          0x030   // of them, pages that get content at the start
#define C_WORKING       0x038   // of them, pages in the working set
#define C_WRITE_NEXT    0x040   // TSC at which the next write is due
#define C_WRITE_CYCLES  0x048   // cycles between two writes; 0: no pause; all ones: no writes
#define C_READ_NEXT     0x050
#define C_READ_CYCLES   0x058
#define C_WRITE_CURSOR  0x060   // sequential pattern: next page
#define C_READ_CURSOR   0x068
#define C_PHASE_BASE    0x070   // phase pattern: where the window starts, relative to C_FIRST
#define C_PHASE_NEXT    0x078
#define C_DUTY_NEXT     0x080   // TSC of the next round of checks
#define C_ROUND         0x088   // register values change with each round
#define C_CLOCK_LAST    0x090   // kvmclock, ns
#define C_GAP_SMALLEST  0x098   // the smallest gap worth keeping
#define C_GAP_SLOT      0x0a0   // and the slot that a larger one replaces
#define C_GAP_EPOCH     0x0a8
#define C_VERIFY_EPOCH  0x0b0
#define C_VERIFY_BAD    0x0b8
#define C_TICKS_SEEN    0x0c0
#define C_TICKS_TSC     0x0c8
#define C_BACKLOG       0x0d0   // cycles that the workload may lag behind before it forgives itself
#define C_BAD_COUNT     0x0d8   // wrong pages recorded by this vCPU
#define C_BAD_PRINTED   0x0e0   // of them, printed by vCPU 0
#define C_FAULT         0x0e8   // vector + 1 of an exception that nobody expected
#define C_FAULT_ERROR   0x0f0
#define C_FAULT_RIP     0x0f8
#define C_FAULT_CR2     0x100
#define C_WINDOW        0x108   // phase pattern: pages in the window
#define C_DEADLINE      0x110   // cycles of a timer period in deadline mode
#define C_HOT           0x118   // hot pages of the working set
#define C_HELD_BAD      0x120
#define C_PVCLOCK       0x140   // struct pvclock_vcpu_time_info, written by KVM; 32 bytes
#define C_BAD_RECORDS   0x180   // BAD_MAX records of BAD_BYTES
#define C_FX            0x800   // where the register file is looked at (fxsave)
#define C_YMM           0xa00
#define C_EXPECTED      0xc00   // what the vector registers hold
#define C_FX_EXPECTED   0xe00
#define C_MARKERS       0x1000  // what FS and GS point at: 16 words
#define C_USER_STACK    0x1b00  // top
#define C_RING0_STACK   0x1f00  // top; the word there counts interrupts taken in ring 3
#define HALT_DEPTH      120     // see ring0.S
#define C_TICKS_RING3   C_RING0_STACK
#define C_TICKS_HALT    (C_RING0_STACK - 40 - HALT_DEPTH)

// A wrong page, as recorded.
#define BAD_MAX         16
#define BAD_BYTES       80
#define BAD_PAGE        0
#define BAD_KIND        8
#define BAD_NUMBER_EXP  16
#define BAD_NUMBER      24
#define BAD_GEN_EXP     32
#define BAD_GEN         36
#define BAD_SUM_EXP     40
#define BAD_SUM         48
#define BAD_STAMP_EXP   56
#define BAD_STAMP       64
#define BAD_TSC         72

// Kinds of wrong pages, in the order of their names in strings.S.
#define KIND_CORRUPT    0   // its content does not agree with its own checksum
#define KIND_STALE      1   // agrees with itself, but is older than it should be
#define KIND_FUTURE     2   // agrees with itself, but is newer
#define KIND_ZERO       3   // nothing but zeros
#define KIND_OTHER      4   // agrees with itself, but is another page
#define KIND_EXPECTATION 5  // the guest's own notes about the page are damaged
#define KIND_DIFFERENT  6   // agrees with itself, right generation, other content

// Globals.
#define G_START_INFO    (GLOBALS + 0x000)
#define G_HEAP          (GLOBALS + 0x008)
#define G_ENTRIES       (GLOBALS + 0x010)
#define G_PAGES         (GLOBALS + 0x018)
#define G_FEATURES      (GLOBALS + 0x020)
#define G_TSC_KHZ       (GLOBALS + 0x028)
#define G_TSC_SOURCE    (GLOBALS + 0x030)
#define G_TIMER_COUNT   (GLOBALS + 0x038)
#define G_CPUS          (GLOBALS + 0x040)
#define G_START_EPOCH   (GLOBALS + 0x048)
#define G_VERIFY_EPOCH  (GLOBALS + 0x050)
#define G_GAP_EPOCH     (GLOBALS + 0x058)
#define G_STOP          (GLOBALS + 0x060)
#define G_BAD_REPORTED  (GLOBALS + 0x068)
#define G_SERIAL_NEXT   (GLOBALS + 0x070)
#define G_REPORT_NEXT   (GLOBALS + 0x078)
#define G_END_TSC       (GLOBALS + 0x080)
#define G_MAP_COUNT     (GLOBALS + 0x088)
#define G_OUT           (GLOBALS + 0x090)
#define G_MAX_HYPERVISOR (GLOBALS + 0x098)
#define G_VERIFY_TSC    (GLOBALS + 0x0a0)
#define G_RSDP          (GLOBALS + 0x0a8)
#define G_SUM           (GLOBALS + 0x0b0)
#define G_APIC_IDS      (GLOBALS + 0x400)  // one byte each

// Options (commandline.S), 8 bytes each.
#define O_FIRST         (GLOBALS + 0x100)
#define O_MEMORY        (GLOBALS + 0x100)
#define O_WORKING       (GLOBALS + 0x108)
#define O_INIT          (GLOBALS + 0x110)
#define O_CPUS          (GLOBALS + 0x118)
#define O_RATE          (GLOBALS + 0x120)
#define O_READS         (GLOBALS + 0x128)
#define O_PATTERN       (GLOBALS + 0x130)
#define O_FILL          (GLOBALS + 0x138)
#define O_CONTENT       (GLOBALS + 0x140)
#define O_HOT           (GLOBALS + 0x148)
#define O_HOTSET        (GLOBALS + 0x150)
#define O_PHASE         (GLOBALS + 0x158)
#define O_TIMER         (GLOBALS + 0x160)
#define O_TIMER_MODE    (GLOBALS + 0x168)
#define O_IDLE          (GLOBALS + 0x170)
#define O_SECONDS       (GLOBALS + 0x178)
#define O_CHECK         (GLOBALS + 0x180)
#define O_SEED          (GLOBALS + 0x188)
#define O_INTERVAL      (GLOBALS + 0x190)
#define O_BAD_LINES     (GLOBALS + 0x198)
#define O_VECTOR        (GLOBALS + 0x1a0)

#define UNSET           -1

#define PATTERN_UNIFORM 0
#define PATTERN_HOTCOLD 1
#define PATTERN_SEQUENTIAL 2
#define PATTERN_SPARSE  3
#define PATTERN_PHASE   4
#define PATTERN_IDLE    5
#define CONTENT_RANDOM  0
#define CONTENT_ZERO    1
#define CONTENT_TEXT    2
#define TIMER_PERIODIC  0
#define TIMER_DEADLINE  1
#define IDLE_HALT       0
#define IDLE_SPIN       1
#define CHECK_FULL      0
#define CHECK_HEAD      1
#define VECTOR_AVX      0
#define VECTOR_SSE      1

// G_FEATURES, and the bit numbers for bt.
#define F_AVX           0
#define F_FSGSBASE      1
#define F_KVMCLOCK      2
#define F_DEADLINE      3
#define F_XSAVE         4

// Multiplier of the generators and hashes (2^64 divided by the golden ratio, odd).
#define GOLDEN          0x9e3779b97f4a7c15

// Calls a routine of ring0.S; clobbers rax, which carries its address.
.macro RING0 routine
    leaq \routine(%rip), %rax
    int3
.endm

// Appends the text at a label to the line (serial.S).
.macro PUT label
    leaq \label(%rip), %rsi
    call put_string
.endm

// rax = TSC; clobbers rdx.
.macro TSC64
    rdtsc
    shlq $32, %rdx
    orq %rdx, %rax
.endm

// The next number of this vCPU's generator in \to; clobbers \scratch. (xorshift; multiplied by users that need high bits.)
.macro RANDOM to, scratch
    movq C_RANDOM(%r15), \to
    movq \to, \scratch
    shlq $13, \scratch
    xorq \scratch, \to
    movq \to, \scratch
    shrq $7, \scratch
    xorq \scratch, \to
    movq \to, \scratch
    shlq $17, \scratch
    xorq \scratch, \to
    movq \to, C_RANDOM(%r15)
.endm
