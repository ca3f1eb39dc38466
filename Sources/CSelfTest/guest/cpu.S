// What the processor offers, and switching it on.

    .code64

// Finds out once, on the bootstrap processor: G_FEATURES. CPUID is an exit (5 us under kvm_pvm).
cpu_features:
    xorl %r8d, %r8d
    movl $1, %eax
    xorl %ecx, %ecx
    cpuid
    btl $26, %ecx                       // XSAVE
    jnc 1f
    btsl $F_XSAVE, %r8d
    btl $28, %ecx
    jnc 1f
    cmpq $VECTOR_AVX, O_VECTOR          // some peers lose the upper halves: then they can be left out
    jne 1f
    btsl $F_AVX, %r8d
1:  btl $24, %ecx
    jnc 2f
    btsl $F_DEADLINE, %r8d
2:  xorl %eax, %eax
    cpuid
    cmpl $7, %eax
    jb 3f
    movl $7, %eax
    xorl %ecx, %ecx
    cpuid
    btl $0, %ebx
    jnc 3f
    btsl $F_FSGSBASE, %r8d
3:  // The hypervisor's leaves: their number, and KVM's signature and clock.
    movl $0x40000000, %eax
    cpuid
    cmpl $0x40000000, %eax
    jb 4f
    cmpl $0x4000ffff, %eax
    ja 4f
    movq %rax, G_MAX_HYPERVISOR
    cmpl $0x4b4d564b, %ebx              // "KVMKVMKVM"
    jne 4f
    cmpl $0x564b4d56, %ecx
    jne 4f
    movl $0x40000001, %eax
    cpuid
    btl $3, %eax                        // KVM_FEATURE_CLOCKSOURCE2
    jnc 4f
    btsl $F_KVMCLOCK, %r8d
4:  movq %r8, G_FEATURES
    ret

// On each vCPU: CR4, XCR0, kvmclock, and the generator's seed.
cpu_init:
    movl $0x620, %esi
    btl $F_XSAVE, G_FEATURES
    jnc 1f
    orl $0x40000, %esi                  // OSXSAVE
1:  btl $F_FSGSBASE, G_FEATURES
    jnc 2f
    orl $0x10000, %esi                  // FSGSBASE
2:  RING0 ring0_write_cr4
    btl $F_AVX, G_FEATURES
    jnc 3f
    movl $7, %esi                       // x87, SSE, AVX
    RING0 ring0_write_xcr0
    // Believed only if it is still so after an exit: QEMU's emulated SVM does not intercept XSETBV, so the KVM inside
    // does not learn of it and puts XCR0 back.
    xorl %eax, %eax
    cpuid
    xorl %ecx, %ecx
    xgetbv
    andl $6, %eax
    cmpl $6, %eax
    je 3f
    btrl $F_AVX, G_FEATURES
3:  btl $F_KVMCLOCK, G_FEATURES
    jnc 4f
    movl $0x4b564d01, %ecx              // MSR_KVM_SYSTEM_TIME_NEW
    leaq C_PVCLOCK + 1(%r15), %rsi      // bit 0: on
    xorl %edx, %edx
    RING0 ring0_write_msr
4:  // Different on each vCPU and for each seed, never zero.
    movq C_INDEX(%r15), %rax
    incq %rax
    movabsq $GOLDEN, %rdx
    imulq %rdx, %rax
    addq O_SEED, %rax
    imulq %rdx, %rax
    btsq $0, %rax
    movq %rax, C_RANDOM(%r15)
    jmp registers_init
