// The other vCPUs: how many there are, and starting them.

    .code64

// G_CPUS and G_APIC_IDS: as many as `cpus=` says, else as many as the firmware's table lists, else one. Without a table
// the local APICs are taken to be numbered from 0 up, the way VMMs number them.
cpus_find:
    movl $SELFTEST_MAX_VCPUS, %ecx
    xorl %eax, %eax
1:  movb %al, G_APIC_IDS(%rax)
    incl %eax
    decl %ecx
    jnz 1b
    call acpi_cpus
    movq O_CPUS, %rcx
    testq %rcx, %rcx
    cmovnzq %rcx, %rax
    testq %rax, %rax
    jnz 2f
    incl %eax
2:  movq %rax, G_CPUS
    movl %eax, SELFTEST_SHARED_ADDRESS + SELFTEST_SHARED_OFFSET_VCPU_COUNT
    ret

// rax = enabled processors in the ACPI table MADT, whose APIC numbers go to G_APIC_IDS after the bootstrap processor's
// own; 0 without such a table. Nothing above 4 GiB is looked at, and nothing is believed without its signature.
acpi_cpus:
    movabsq $DIRECT, %rbp
    movq G_RSDP, %rbx
    testq %rbx, %rbx
    jz 9f
    movq %rbx, %rax
    shrq $32, %rax
    jnz 9f
    addq %rbp, %rbx
    movabsq $0x2052545020445352, %rax   // "RSD PTR "
    cmpq %rax, (%rbx)
    jne 9f
    // r12 = root table, r13 = bytes of one of its entries.
    movl 16(%rbx), %r12d
    movl $4, %r13d
    cmpb $2, 15(%rbx)
    jb 1f
    movq 24(%rbx), %rax
    testq %rax, %rax
    jz 1f
    movq %rax, %r12
    movl $8, %r13d
1:  movq %r12, %rax
    shrq $32, %rax
    jnz 9f
    addq %rbp, %r12
    movl 4(%r12), %r8d                  // length
    cmpl $PAGE_SIZE, %r8d
    ja 9f
    addq %r12, %r8
    addq $36, %r12                      // behind the header
2:  leaq (%r12, %r13), %rax
    cmpq %r8, %rax
    ja 9f
    movl (%r12), %ebx                   // tables lie below 4 GiB
    addq %rbp, %rbx
    cmpl $0x43495041, (%rbx)            // "APIC"
    je 3f
    addq %r13, %r12
    jmp 2b
3:  movl 4(%rbx), %r8d
    cmpl $4 * PAGE_SIZE, %r8d
    ja 9f
    addq %rbx, %r8
    addq $44, %rbx
    movl APIC + APIC_ID, %r9d
    shrl $24, %r9d
    movb %r9b, G_APIC_IDS
    movl $1, %eax
4:  leaq 8(%rbx), %rcx
    cmpq %r8, %rcx
    ja 8f
    cmpb $0, (%rbx)                     // a local APIC: type, length, processor, APIC, flags
    jne 5f
    testb $1, 4(%rbx)                   // enabled
    jz 5f
    movzbl 3(%rbx), %ecx
    cmpl %r9d, %ecx
    je 5f
    cmpl $SELFTEST_MAX_VCPUS, %eax
    jae 8f
    movb %cl, G_APIC_IDS(%rax)
    incl %eax
5:  movzbl 1(%rbx), %ecx
    testl %ecx, %ecx
    jz 8f
    addq %rcx, %rbx
    jmp 4b
8:  ret
9:  xorl %eax, %eax
    ret

// Starts vCPUs 1 and up, one at a time, since they learn from one boot block who they are.
cpus_start:
    leaq trampoline(%rip), %rsi
    movl $TRAMPOLINE, %edi
    movl $trampoline_end - trampoline, %ecx
    rep movsb
    movl $SELFTEST_STATE_RUNNING, SELFTEST_VCPU_OFFSET_STATE(%r14)
    movl $1, %ebx                       // rbx = the vCPU to start
1:  cmpq G_CPUS, %rbx
    jae 9f
    imull $CPU_BLOCK_BYTES, %ebx, %eax
    addl $CPU_BLOCKS, %eax
    movl %eax, boot_cpu(%rip)
    movl %ebx, %eax
    shll $4, %eax
    addl $TSS_SELECTOR, %eax
    movl %eax, boot_task(%rip)
    imulq $SELFTEST_VCPU_BYTES, %rbx, %r12
    movzbl G_APIC_IDS(%rbx), %r13d
    shll $24, %r13d
    movl %r13d, APIC + APIC_ICR_HIGH
    movl $0x4500, APIC + APIC_ICR       // INIT
    movl $10000, %ecx
    call delay
    movl $3, %ebp                       // SIPIs that are tried
2:  movl %r13d, APIC + APIC_ICR_HIGH
    movl $0x4600 | TRAMPOLINE >> 12, APIC + APIC_ICR
    movl $2000, %r8d                    // 100 us each
3:  movl $100, %ecx
    call delay
    cmpl $SELFTEST_STATE_ABSENT, SELFTEST_VCPU_ADDRESS + SELFTEST_VCPU_OFFSET_STATE(%r12)
    jne 4f
    decl %r8d
    jnz 3b
    decl %ebp
    jnz 2b
    call line_begin
    PUT s_error_cpu
    movq %rbx, %rax
    call put_decimal
    jmp fatal_line
4:  incl %ebx
    jmp 1b
9:  ret

// Waits until all vCPUs have initialised their pages.
cpus_wait:
    movl $1, %ebx
1:  cmpq G_CPUS, %rbx
    jae 9f
    imulq $SELFTEST_VCPU_BYTES, %rbx, %r12
2:  pause
    cmpl $SELFTEST_STATE_STARTING, SELFTEST_VCPU_ADDRESS + SELFTEST_VCPU_OFFSET_STATE(%r12)
    je 2b
    incl %ebx
    jmp 1b
9:  ret
