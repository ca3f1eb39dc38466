// What is laid out by the assembler, so that ring 0 need not build it: the shared area, page tables, interrupt
// descriptors, segment descriptors, task state segments.

    .org SELFTEST_SHARED_ADDRESS - SELFTEST_LOAD_ADDRESS, 0
    .quad SELFTEST_MAGIC
    .long SELFTEST_VERSION, 0
    .long 0, SELFTEST_VCPU_BYTES
    .quad SELFTEST_VCPU_ADDRESS

    .org SELFTEST_VCPU_ADDRESS - SELFTEST_LOAD_ADDRESS, 0
    .skip SELFTEST_VCPU_BYTES * SELFTEST_MAX_VCPUS

    // Page tables: virtual = physical for the first GiB, the local APIC, and empty directories that ring 3 fills.
    .org PML4 - SELFTEST_LOAD_ADDRESS, 0
    .quad PDPT_LOW + PT_TABLE
    .quad PDPT_DIRECT + PT_TABLE
    .quad PDPT_OWNED + PT_TABLE

    .org PDPT_LOW - SELFTEST_LOAD_ADDRESS, 0
    .quad PD_LOW + PT_TABLE
    .quad PD_APIC + PT_TABLE

    .org PD_LOW - SELFTEST_LOAD_ADDRESS, 0
    .set index, 0
    .rept 512
    .quad (index * LARGE_PAGE) + PT_LARGE
    .set index, index + 1
    .endr

    .org PD_APIC - SELFTEST_LOAD_ADDRESS, 0
    .quad 0xfee00000 + PT_LARGE_DEVICE

    .org PDPT_DIRECT - SELFTEST_LOAD_ADDRESS, 0
    .quad PD_DIRECT + PT_TABLE
    .quad PD_DIRECT + 0x1000 + PT_TABLE
    .quad PD_DIRECT + 0x2000 + PT_TABLE
    .quad PD_DIRECT + 0x3000 + PT_TABLE

    .org PDPT_OWNED - SELFTEST_LOAD_ADDRESS, 0

    // Interrupt gates to stubs of 16 bytes each. Only the breakpoint may be raised by ring 3 itself.
.macro GATE address, type
    .word (\address) & 0xffff, CODE64, (\type) << 8, (\address) >> 16
    .long 0, 0
.endm

    .org IDT - SELFTEST_LOAD_ADDRESS, 0
    .set index, 0
    .rept 32
    .if index == VECTOR_BREAKPOINT
    GATE (STUBS + index * 16), 0xee
    .else
    GATE (STUBS + index * 16), 0x8e
    .endif
    .set index, index + 1
    .endr
    .org IDT - SELFTEST_LOAD_ADDRESS + VECTOR_TIMER * 16, 0
timer_gate:
    GATE STUB_TIMER, 0x8e
    .org IDT - SELFTEST_LOAD_ADDRESS + VECTOR_SPURIOUS * 16, 0
    GATE STUB_SPURIOUS, 0x8e

    .org STUBS - SELFTEST_LOAD_ADDRESS, 0
#include "stubs.S"

    .org GDT - SELFTEST_LOAD_ADDRESS, 0
    .quad 0
    .quad 0x00cf9b000000ffff            // 0x08 ring 0 code, 32 bit
    .quad 0x00af9b000000ffff            // 0x10 ring 0 code, 64 bit
    .quad 0x00cf93000000ffff            // 0x18 ring 0 data
    .quad 0
    .quad 0x00cff3000000ffff            // 0x28 user data
    .quad 0x00affb000000ffff            // 0x30 user code, 64 bit
    .quad 0
    .set index, 0
    .rept SELFTEST_MAX_VCPUS
    // 64-bit task state segment, available.
    .word TSS_LIMIT
    .word (TSS + index * TSS_BYTES) & 0xffff
    .byte ((TSS + index * TSS_BYTES) >> 16) & 0xff
    .byte 0x89, 0, 0
    .long 0, 0
    .set index, index + 1
    .endr
gdt_end:

    // Task state segments, each with its I/O bitmap.
    .org TSS - SELFTEST_LOAD_ADDRESS, 0
    .set index, 0
    .rept SELFTEST_MAX_VCPUS
    .long 0
    .quad CPU_BLOCKS + index * CPU_BLOCK_BYTES + C_RING0_STACK
    .skip 0x66 - 12
    .word 0x68
    .skip IO_BITMAP_BYTES
    .byte 0xff
    .skip TSS_BYTES - 0x68 - IO_BITMAP_BYTES - 1
    .set index, index + 1
    .endr
    .org TABLES_END - SELFTEST_LOAD_ADDRESS, 0
