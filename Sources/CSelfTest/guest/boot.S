// From the PVH entry to ring 3: the few instructions that only ring 0 can execute. Everything they need was laid out by
// the assembler.

    .code32
start32:
    cli
    lgdt GA(gdt_register)
start32_common:
    // ebx carries the start_info's address to ring 3 (bootstrap processor only).
    movl $0x620, %eax                   // CR4: PAE, OSFXSR, OSXMMEXCPT
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx              // EFER: LME
    movl $0x100, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x80010033, %eax              // CR0: PG, WP, NE, ET, MP, PE
    movl %eax, %cr0
    ljmpl $CODE64, $GA(start64)

    .code64
start64:
    lidt GA(idt_register)
    // Which vCPU this is stands in the boot block: the bootstrap processor starts the others one at a time.
    movl GA(boot_task), %eax
    ltr %ax
    movl GA(boot_cpu), %edi
    movl $GA(boot_frame), %esp
    iretq

    .p2align 3, 0
boot_cpu:
    .long CPU_BLOCKS
boot_task:
    .long TSS_SELECTOR
boot_frame:
    .quad GA(ring3)
    .quad USER_CODE
    .quad USER_FLAGS                    // interrupts off until ring 3 has silenced the legacy controllers
    .quad 0
    .quad USER_DATA

gdt_register:
    .word gdt_end - image - (GDT - SELFTEST_LOAD_ADDRESS) - 1
    .long GDT, 0
idt_register:
    .word 0xfff
    .quad IDT

    // Application processors start here in real mode at TRAMPOLINE, where ring 3 has copied these bytes.
    .code16
trampoline:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl TRAMPOLINE + (trampoline_gdt - trampoline)
    movl $0x11, %eax                    // CR0: PE, ET; caches on
    movl %eax, %cr0
    ljmpl $CODE32, $GA(start32_application)
trampoline_gdt:
    .word gdt_end - image - (GDT - SELFTEST_LOAD_ADDRESS) - 1
    .long GDT
trampoline_end:

    .code32
start32_application:
    movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    jmp start32_common

    .code64
    // The first instructions in ring 3. rdi = this vCPU's block, rbx = start_info (bootstrap processor).
ring3:
    leaq C_USER_STACK(%rdi), %rsp
    movq %rdi, %r15
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    // The index follows from the block's address, the shared entry from the index.
    movq %r15, %rax
    subq $CPU_BLOCKS, %rax
    shrq $13, %rax
    movq %rax, C_INDEX(%r15)
    imulq $SELFTEST_VCPU_BYTES, %rax, %r14
    addq $SELFTEST_VCPU_ADDRESS, %r14
    testq %rax, %rax
    jnz application_main
    jmp bootstrap_main
