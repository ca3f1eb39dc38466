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

// Compares the registers with what was loaded, notes which kinds differ (SELFTEST_REGISTER_...), and loads new values.
registers_check:
    incq SELFTEST_VCPU_OFFSET_REGISTER_CHECKS(%r14)
    xorl %r8d, %r8d                     // the kinds that differ
    // x87 and MXCSR: the parts of the image that the processor must keep (not the last instruction's address).
    fxsave64 C_FX(%r15)
    movq C_FX(%r15), %rax
    xorq C_FX_EXPECTED(%r15), %rax
    movabsq $0xffffffffff, %rcx         // control, status, tags
    testq %rcx, %rax
    jz 1f
    orl $SELFTEST_REGISTER_X87_CONTROL, %r8d
1:  movl C_FX + 24(%r15), %eax
    cmpl C_FX_EXPECTED + 24(%r15), %eax
    je 1f
    orl $SELFTEST_REGISTER_MXCSR, %r8d
1:  xorl %edx, %edx
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    movq C_FX + 32 + \n * 16(%r15), %rax
    xorq C_FX_EXPECTED + 32 + \n * 16(%r15), %rax
    orq %rax, %rdx
    movzwl C_FX + 40 + \n * 16(%r15), %eax
    xorw C_FX_EXPECTED + 40 + \n * 16(%r15), %ax
    orq %rax, %rdx
    .endr
    testq %rdx, %rdx
    jz 1f
    orl $SELFTEST_REGISTER_X87, %r8d
1:  // Vector registers against the table that they were loaded from: both halves, or the low ones without AVX.
    leaq C_YMM(%r15), %rsi
    leaq C_EXPECTED(%r15), %rdi
    btl $F_AVX, G_FEATURES
    jnc 2f
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vextractf128 $1, %ymm\n, \n * 32 + 16(%rsi)
    .endr
    xorl %edx, %edx
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movq \n * 32 + 16(%rsi), %rax
    xorq \n * 32 + 16(%rdi), %rax
    orq %rax, %rdx
    movq \n * 32 + 24(%rsi), %rax
    xorq \n * 32 + 24(%rdi), %rax
    orq %rax, %rdx
    .endr
    testq %rdx, %rdx
    jz 2f
    orl $SELFTEST_REGISTER_AVX, %r8d
2:  xorl %edx, %edx
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movq C_FX + 160 + \n * 16(%r15), %rax
    xorq \n * 32(%rdi), %rax
    orq %rax, %rdx
    movq C_FX + 168 + \n * 16(%r15), %rax
    xorq \n * 32 + 8(%rdi), %rax
    orq %rax, %rdx
    .endr
    testq %rdx, %rdx
    jz 3f
    orl $SELFTEST_REGISTER_SSE, %r8d
3:  // What FS and GS point at, and the bases themselves where they can be read.
    call markers
    movq C_INDEX(%r15), %rdx
    shlq $32, %rdx
    movq %rdx, %rax
    orq %rsi, %rax
    cmpq %fs:0, %rax
    je 1f
    orl $SELFTEST_REGISTER_FS, %r8d
1:  orq %rdi, %rdx
    cmpq %gs:0, %rdx
    je 1f
    orl $SELFTEST_REGISTER_GS, %r8d
1:  btl $F_FSGSBASE, G_FEATURES
    jnc 4f
    rdfsbase %rax
    cmpq %rsi, %rax
    je 1f
    orl $SELFTEST_REGISTER_FS, %r8d
1:  rdgsbase %rax
    cmpq %rdi, %rax
    je 4f
    orl $SELFTEST_REGISTER_GS, %r8d
4:  testl %r8d, %r8d
    jz registers_load
    orl %r8d, SELFTEST_VCPU_OFFSET_REGISTER_MASK(%r14)
    incq SELFTEST_VCPU_OFFSET_REGISTER_FAILURES(%r14)
    jmp registers_load
