// How fast the time stamp counter runs. Four sources, the cheapest and most exact first.

    .code64

// G_TSC_KHZ, G_TSC_SOURCE (position in w_tsc_sources).
tsc_init:
    btl $F_KVMCLOCK, G_FEATURES
    jnc 3f
    // KVM fills the page at the next entry; wait for it, but not for ever.
    movl $1000000, %ecx
1:  movl C_PVCLOCK + 24(%r15), %ebx     // tsc_to_system_mul
    testl %ebx, %ebx
    jnz 2f
    pause
    decl %ecx
    jnz 1b
    btrl $F_KVMCLOCK, G_FEATURES
    jmp 3f
2:  // ns = ((tsc << shift) * mul) >> 32, so khz = (10^6 << 32) / mul >> shift.
    movabsq $1000000 << 32, %rax
    xorl %edx, %edx
    divq %rbx
    movb C_PVCLOCK + 28(%r15), %cl
    testb %cl, %cl
    js 4f
    shrq %cl, %rax
    jmp 5f
4:  negb %cl
    shlq %cl, %rax
5:  movl $0, G_TSC_SOURCE
    jmp tsc_store

3:  // The hypervisor's timing leaf (VMware's, also offered by QEMU).
    cmpl $0x40000010, G_MAX_HYPERVISOR
    jb 6f
    movl $0x40000010, %eax
    cpuid
    movl %eax, %eax
    movl $1, G_TSC_SOURCE
    testl %eax, %eax
    jnz tsc_store
6:  // Ratio and crystal in CPUID.
    xorl %eax, %eax
    cpuid
    cmpl $0x15, %eax
    jb 7f
    movl $0x15, %eax
    xorl %ecx, %ecx
    cpuid
    testl %eax, %eax
    jz 7f
    testl %ebx, %ebx
    jz 7f
    testl %ecx, %ecx
    jz 7f
    movl %eax, %esi
    movl %ecx, %eax
    imulq %rbx, %rax
    xorl %edx, %edx
    divq %rsi
    movl $1000, %ecx
    xorl %edx, %edx
    divq %rcx
    movl $2, G_TSC_SOURCE
    jmp tsc_store

7:  // Channel 2 of the PIT, gated by port 0x61, counts 59659 times at 1193182 Hz: 50.0 ms.
    inb $0x61, %al
    andb $0xfc, %al
    outb %al, $0x61                     // gate off, speaker off
    movb $0xb0, %al                     // channel 2, both bytes, mode 0
    outb %al, $0x43
    movb $(59659 & 0xff), %al
    outb %al, $0x42
    movb $(59659 >> 8), %al
    outb %al, $0x42
    inb $0x61, %al
    orb $1, %al
    outb %al, $0x61                     // gate on: it runs
    TSC64
    movq %rax, %rsi
8:  inb $0x61, %al
    testb $0x20, %al
    jz 8b
    TSC64
    subq %rsi, %rax
    movl $50, %ecx
    xorl %edx, %edx
    divq %rcx
    movl $3, G_TSC_SOURCE

tsc_store:
    movq %rax, G_TSC_KHZ
    movq %rax, SELFTEST_SHARED_ADDRESS + SELFTEST_SHARED_OFFSET_TSC_KHZ
    ret

// rax = cycles -> rax = ns. Clobbers rdx.
cycles_to_ns:
    movl $1000000, %edx
    mulq %rdx
    divq G_TSC_KHZ
    ret

// Waits rcx microseconds. Clobbers rax, rdx, rcx.
delay:
    imulq G_TSC_KHZ, %rcx
    movq %rcx, %rax
    xorl %edx, %edx
    movl $1000, %ecx
    divq %rcx
    movq %rax, %rcx
    TSC64
    addq %rax, %rcx
1:  pause
    TSC64
    cmpq %rcx, %rax
    jb 1b
    ret
