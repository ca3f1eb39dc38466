// The heartbeat and the gaps in it, and clocks that must not go back.

    .code64

// One heartbeat. rax = TSC on return. Clobbers rcx, rdx, r8, r9.
// The stamp is taken first: in a gap, the last stamp before it and the first after it are then as near to its ends as
// the vCPU could take them.
beat:
    rdtsc
    shlq $32, %rdx
    orq %rdx, %rax
    movq %rax, %rcx
    subq C_LAST_TSC(%r15), %rcx
    jb beat_backward
    cmpq C_GAP_SMALLEST(%r15), %rcx
    ja beat_gap
beat_store:
    movq %rax, C_LAST_TSC(%r15)
    movq %rax, SELFTEST_VCPU_OFFSET_LAST_TSC(%r14)
    // The sequence is kept in two pages. If they disagree, one of them was lost on the way.
    movq C_SEQUENCE(%r15), %rdx
    cmpq SELFTEST_VCPU_OFFSET_SEQUENCE(%r14), %rdx
    jne beat_lost
1:  incq %rdx
    movq %rdx, C_SEQUENCE(%r15)
    movq %rdx, SELFTEST_VCPU_OFFSET_SEQUENCE(%r14)
    ret

beat_lost:
    incq SELFTEST_VCPU_OFFSET_HEARTBEAT_FAILURES(%r14)
    jmp 1b

// Moves a moment by rcx; a moment before the TSC began is due at once.
.macro MOVE_MOMENT place
    addq %rcx, \place
    jns 9f
    movq $0, \place
9:
.endm

// The TSC went back: rcx = by how much, negative. All that is due at a certain TSC moves with it, or the guest would do
// nothing until the TSC has caught up, and tell nobody.
beat_backward:
    incq SELFTEST_VCPU_OFFSET_TSC_BACKWARD(%r14)
    movq %rcx, %rdx
    negq %rdx
    cmpq SELFTEST_VCPU_OFFSET_TSC_STEP(%r14), %rdx
    jbe 1f
    movq %rdx, SELFTEST_VCPU_OFFSET_TSC_STEP(%r14)
1:  MOVE_MOMENT C_DUTY_NEXT(%r15)
    MOVE_MOMENT C_PHASE_NEXT(%r15)
    cmpq $-1, C_WRITE_NEXT(%r15)        // never stays never
    je 2f
    movq %rax, C_WRITE_NEXT(%r15)
2:  cmpq $-1, C_READ_NEXT(%r15)
    je 3f
    movq %rax, C_READ_NEXT(%r15)
3:  cmpq $0, C_INDEX(%r15)
    jne beat_store
    MOVE_MOMENT G_SERIAL_NEXT
    MOVE_MOMENT G_REPORT_NEXT
    MOVE_MOMENT G_END_TSC
    addq %rcx, G_VERIFY_TSC
    addq %rcx, SELFTEST_SHARED_ADDRESS + SELFTEST_SHARED_OFFSET_BOOT_TSC
    addq %rcx, SELFTEST_SHARED_ADDRESS + SELFTEST_SHARED_OFFSET_READY_TSC
    jmp beat_store

beat_gap:
    // Replace the smallest of the kept gaps, then look for the one that is now the smallest.
    movq C_GAP_SLOT(%r15), %rdx
    movq C_LAST_TSC(%r15), %rcx
    movq %rcx, SELFTEST_VCPU_OFFSET_GAPS(%r14, %rdx)
    movq %rax, SELFTEST_VCPU_OFFSET_GAPS + 8(%r14, %rdx)
    movq $-1, %rcx
    movl $(SELFTEST_GAPS - 1) * 16, %r8d
1:  movq SELFTEST_VCPU_OFFSET_GAPS + 8(%r14, %r8), %r9
    subq SELFTEST_VCPU_OFFSET_GAPS(%r14, %r8), %r9
    cmpq %rcx, %r9
    jae 2f
    movq %r9, %rcx
    movl %r8d, %edx
2:  subl $16, %r8d
    jns 1b
    movq %rcx, C_GAP_SMALLEST(%r15)
    movq %rdx, C_GAP_SLOT(%r15)
    jmp beat_store

// Forgets the gaps and starts anew from now.
gaps_reset:
    leaq SELFTEST_VCPU_OFFSET_GAPS(%r14), %rdi
    movl $SELFTEST_GAPS * 2, %ecx
    xorl %eax, %eax
    rep stosq
    movq %rax, C_GAP_SMALLEST(%r15)
    movq %rax, C_GAP_SLOT(%r15)
    TSC64
    movq %rax, C_LAST_TSC(%r15)
    movq %rax, SELFTEST_VCPU_OFFSET_LAST_TSC(%r14)
    ret

// rax = kvmclock in ns (struct pvclock_vcpu_time_info of the kernel's Documentation/virt/kvm/x86/msr.rst).
clock_read:
    movl C_PVCLOCK(%r15), %r8d          // version: odd while KVM writes
    testl $1, %r8d
    jnz clock_read
    TSC64
    subq C_PVCLOCK + 8(%r15), %rax      // tsc_timestamp
    movb C_PVCLOCK + 28(%r15), %cl      // tsc_shift
    testb %cl, %cl
    js 1f
    shlq %cl, %rax
    jmp 2f
1:  negb %cl
    shrq %cl, %rax
2:  movl C_PVCLOCK + 24(%r15), %edx     // tsc_to_system_mul
    mulq %rdx
    shrdq $32, %rdx, %rax
    addq C_PVCLOCK + 16(%r15), %rax     // system_time
    cmpl C_PVCLOCK(%r15), %r8d
    jne clock_read
    ret

// Counts steps back of kvmclock.
clock_check:
    btl $F_KVMCLOCK, G_FEATURES
    jnc 1f
    call clock_read
    cmpq C_CLOCK_LAST(%r15), %rax
    jae 2f
    incq SELFTEST_VCPU_OFFSET_CLOCK_BACKWARD(%r14)
2:  movq %rax, C_CLOCK_LAST(%r15)
1:  ret
