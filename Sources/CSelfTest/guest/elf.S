// The ELF header, program headers and the PVH note, written by hand (System V ABI for AMD64; Xen's public
// elfnote.h and arch-x86/hvm/start_info.h). Firmware enters at the note's address in 32-bit protected mode without
// paging, with the address of the start_info in ebx.

    .byte 0x7f, 'E', 'L', 'F'
    .byte 2, 1, 1, 0                    // 64 bit, little endian, version 1
    .quad 0
    .word 2, 62                         // ET_EXEC, EM_X86_64
    .long 1
    .quad GA(start32)                   // e_entry: for loaders that do not look at notes
    .quad program_headers - image
    .quad 0                             // no sections
    .long 0
    .word 64, 56, 2, 0, 0, 0

program_headers:
    // PT_LOAD, readable, writable, executable: the image and the bss behind it.
    .long 1, 7
    .quad 0, SELFTEST_LOAD_ADDRESS, SELFTEST_LOAD_ADDRESS
    .quad image_end - image
    .quad BSS_END - SELFTEST_LOAD_ADDRESS
    .quad PAGE_SIZE
    // PT_NOTE.
    .long 4, 4
    .quad note - image, GA(note), GA(note)
    .quad note_end - note, note_end - note
    .quad 4

    .p2align 2, 0
note:
    .long 4, 8, 18                      // bytes of the name and of the entry, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad GA(start32)                   // QEMU reads eight bytes here
note_end:
