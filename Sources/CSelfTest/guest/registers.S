// Known values in the registers that a migration could lose: vector registers, x87, MXCSR, FS and GS bases. They differ
// from vCPU to vCPU and change with each round, so that another vCPU's or an older state is noticed too. No other code of
// this guest uses vector registers.

    .code64

// FS and GS point to words of C_MARKERS which hold their own address and the vCPU's number. The bases change each round
// if ring 3 may write them; otherwise ring 0 sets them once.
registers_init:
    leaq C_MARKERS(%r15), %rdi
    movl $16, %ecx
1:  movq C_INDEX(%r15), %rax
    shlq $32, %rax
    orq %rdi, %rax
    stosq
    decl %ecx
    jnz 1b
    btl $F_FSGSBASE, G_FEATURES
    jc registers_load
    leaq C_MARKERS(%r15), %rsi
    xorl %edx, %edx
    movl $0xc0000100, %ecx
    RING0 ring0_write_msr
    leaq C_MARKERS + 64(%r15), %rsi
    xorl %edx, %edx
    movl $0xc0000101, %ecx
    RING0 ring0_write_msr
    // Falls into registers_load.

// Loads the values of the next round.
registers_load:
    incq C_ROUND(%r15)
    // 64 words for 16 registers of 32 bytes.
    movq C_ROUND(%r15), %rax
    shlq $16, %rax
    addq C_INDEX(%r15), %rax
    movabsq $GOLDEN, %rdx
    incq %rax
    imulq %rdx, %rax
    leaq C_EXPECTED(%r15), %rdi
    movl $64, %ecx
1:  movq %rax, (%rdi)
    imulq %rdx, %rax
    addq %rdx, %rax
    addq $8, %rdi
    decl %ecx
    jnz 1b
    leaq C_EXPECTED(%r15), %rsi
    btl $F_AVX, G_FEATURES
    jnc 2f
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqu \n * 32(%rsi), %ymm\n
    .endr
    jmp 3f
2:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movdqu \n * 32(%rsi), %xmm\n
    .endr
3:  // x87: eight integers of 63 bits, and a rounding mode that changes. The control word travels over the stack.
    fninit
    movl C_ROUND(%r15), %eax
    andl $3, %eax
    movl %eax, %ecx
    shll $10, %eax
    orl $0x37f, %eax
    pushq %rax
    fldcw (%rsp)
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    fildq \n * 32(%rsi)
    .endr
    shll $13, %ecx
    orl $0x1f80, %ecx
    movl %ecx, (%rsp)
    ldmxcsr (%rsp)
    popq %rax
    fxsave64 C_FX_EXPECTED(%r15)
    btl $F_FSGSBASE, G_FEATURES
    jnc 4f
    call markers
    wrfsbase %rsi
    wrgsbase %rdi
4:  ret

// rsi, rdi = the FS and GS bases of this round.
markers:
    leaq C_MARKERS(%r15), %rsi
    movq %rsi, %rdi
    btl $F_FSGSBASE, G_FEATURES
    jnc 1f
    movl C_ROUND(%r15), %eax
    andl $7, %eax
    leaq (%rsi, %rax, 8), %rsi
    leaq 64(%rdi, %rax, 8), %rdi
    ret
1:  addq $64, %rdi
    ret

// Compares the registers with what was loaded, and loads new values.
registers_check:
    incq SELFTEST_VCPU_OFFSET_REGISTER_CHECKS(%r14)
    xorl %r8d, %r8d                     // differences
    // x87 and MXCSR: the parts of the image that the processor must keep (not the last instruction's address).
    fxsave64 C_FX(%r15)
    movq C_FX(%r15), %rax
    xorq C_FX_EXPECTED(%r15), %rax
    movl $0xffffffff, %ecx              // control, status
    movabsq $0xff00000000, %rdx         // tags
    orq %rdx, %rcx
    andq %rcx, %rax
    orq %rax, %r8
    movl C_FX + 24(%r15), %eax
    xorl C_FX_EXPECTED + 24(%r15), %eax
    orq %rax, %r8
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    movq C_FX + 32 + \n * 16(%r15), %rax
    xorq C_FX_EXPECTED + 32 + \n * 16(%r15), %rax
    orq %rax, %r8
    movzwl C_FX + 40 + \n * 16(%r15), %eax
    movzwl C_FX_EXPECTED + 40 + \n * 16(%r15), %ecx
    xorl %ecx, %eax
    orq %rax, %r8
    .endr
    // Vector registers against the table that they were loaded from.
    leaq C_YMM(%r15), %rsi
    leaq C_EXPECTED(%r15), %rdi
    btl $F_AVX, G_FEATURES
    jnc 1f
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vmovdqu %ymm\n, \n * 32(%rsi)
    .endr
    movl $64, %ecx
    repe cmpsq
    je 3f
    incq %r8
    jmp 3f
1:  // Without AVX, the low halves.
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movdqu %xmm\n, \n * 32(%rsi)
    .endr
    movl $16, %ecx
2:  movq (%rsi), %rax
    xorq (%rdi), %rax
    orq %rax, %r8
    movq 8(%rsi), %rax
    xorq 8(%rdi), %rax
    orq %rax, %r8
    addq $32, %rsi
    addq $32, %rdi
    decl %ecx
    jnz 2b
3:  // What FS and GS point at, and the bases themselves where they can be read.
    call markers
    movq C_INDEX(%r15), %rdx
    shlq $32, %rdx
    movq %rdx, %rax
    orq %rsi, %rax
    xorq %fs:0, %rax
    orq %rax, %r8
    movq %rdx, %rax
    orq %rdi, %rax
    xorq %gs:0, %rax
    orq %rax, %r8
    btl $F_FSGSBASE, G_FEATURES
    jnc 4f
    rdfsbase %rax
    xorq %rsi, %rax
    orq %rax, %r8
    rdgsbase %rax
    xorq %rdi, %rax
    orq %rax, %r8
4:  testq %r8, %r8
    jz registers_load
    incq SELFTEST_VCPU_OFFSET_REGISTER_FAILURES(%r14)
    jmp registers_load
