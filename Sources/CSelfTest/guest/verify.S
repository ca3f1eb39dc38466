// Verifying everything: each vCPU checks its own slice.

    .code64

// Checks all pages of this vCPU's slice; C_VERIFY_BAD = how many were wrong. Answers to the epoch that asked for it.
verify_slice:
    pushq %rbx
    pushq %rbp
    movq G_VERIFY_EPOCH, %rax
    pushq %rax
    movq $0, C_HELD_BAD(%r15)
    movq C_FIRST(%r15), %rbx
    movq C_COUNT(%r15), %rbp
    testq %rbp, %rbp
    jz 2f
1:  call check_full
    call beat
    incq %rbx
    decq %rbp
    jnz 1b
2:  movq C_HELD_BAD(%r15), %rax
    movq %rax, C_VERIFY_BAD(%r15)
    popq %rax
    popq %rbp
    popq %rbx
    movq %rax, C_VERIFY_EPOCH(%r15)
    ret

// vCPU 0: everybody verifies. r8 = pages that were wrong, rax = cycles it took.
verify_all:
    TSC64
    movq %rax, G_VERIFY_TSC
    incq G_VERIFY_EPOCH
    call verify_slice
    xorl %ebp, %ebp
    xorl %ebx, %ebx
1:  imulq $CPU_BLOCK_BYTES, %rbx, %r12
    addq $CPU_BLOCKS, %r12
2:  call beat
    call print_new_bad                  // makes room for more records meanwhile
    movq C_VERIFY_EPOCH(%r12), %rax
    cmpq G_VERIFY_EPOCH, %rax
    je 3f
    cmpq $0, C_FAULT(%r12)
    jne 3f
    pause
    jmp 2b
3:  addq C_VERIFY_BAD(%r12), %rbp
    incq %rbx
    cmpq G_CPUS, %rbx
    jb 1b
    call print_new_bad
    movq %rbp, %r8
    TSC64
    subq G_VERIFY_TSC, %rax
    ret
