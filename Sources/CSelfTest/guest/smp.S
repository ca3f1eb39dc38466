// The other vCPUs: how many there are, and starting them.

    .code64

// G_CPUS and G_APIC_IDS.
cpus_find:
    movl $SELFTEST_MAX_VCPUS, %ecx
    xorl %eax, %eax
1:  movb %al, G_APIC_IDS(%rax)
    incl %eax
    decl %ecx
    jnz 1b
    movq O_CPUS, %rax
    testq %rax, %rax
    jnz 2f
    movl $1, %eax
2:  movq %rax, G_CPUS
    movl %eax, SELFTEST_SHARED_ADDRESS + SELFTEST_SHARED_OFFSET_VCPU_COUNT
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
