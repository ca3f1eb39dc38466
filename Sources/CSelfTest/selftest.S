// The built-in test guest, one PVH ELF image between two symbols. docs/selftest-guest.md says what it does.
//
// The image lies in a read-only section of a hosted object file. Whatever the linker does with that section, the guest
// must find the addresses that it was loaded at: so every address is made from a difference of two labels of this section
// plus the load address (GA below), which the assembler resolves by itself, and no relocation is left. For the same
// reason everything stands in one section and one translation unit, split by subject into the files of guest/.
//
// Why so much is done in ring 3: on hosts that run KVM without hardware virtualisation (kvm_pvm), each instruction of
// ring 0 is emulated and takes microseconds; ring 3 in long mode runs natively. Ring 0 is therefore entered only to set
// what only ring 0 can set, and for interrupts. Ring 3 has the whole of memory mapped, the page tables and the local APIC
// included, and may do port I/O. Nothing here defends the guest against itself.

#if defined(__x86_64__)

#include "selftest_layout.h"

// The guest physical address of a label of this image.
#define GA(label) ((label) - image + SELFTEST_LOAD_ADDRESS)

    .section .rodata.selftest_image, "a", @progbits
    .globl selftest_image_start, selftest_image_end
    .p2align 12
selftest_image_start:
image:

#include "guest/layout.S"
#include "guest/elf.S"
#include "guest/tables.S"
#include "guest/boot.S"
#include "guest/ring0.S"
#include "guest/main.S"
#include "guest/commandline.S"
#include "guest/memory.S"
#include "guest/cpu.S"
#include "guest/tsc.S"
#include "guest/interrupts.S"
#include "guest/smp.S"
#include "guest/registers.S"
#include "guest/clock.S"
#include "guest/pages.S"
#include "guest/verify.S"
#include "guest/workload.S"
#include "guest/duties.S"
#include "guest/serial.S"
#include "guest/report.S"
#include "guest/strings.S"

    .p2align 4, 0
image_end:
selftest_image_end:
    // The image must end before BSS_START: a test looks at it, and the guest itself refuses to start otherwise.

#endif

    .section .note.GNU-stack, "", @progbits
