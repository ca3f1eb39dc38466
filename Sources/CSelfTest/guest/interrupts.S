// The local APIC, which ring 3 reaches through its own mapping, and its timer.

    .code64

// Masks the legacy interrupt controllers: firmware leaves the PIT's interrupt on, at a vector of its own.
interrupts_silence:
    movb $0xff, %al
    outb %al, $0xa1
    outb %al, $0x21
    ret

// On each vCPU: APIC on, its local pins masked.
apic_init:
    movl $0x10000, APIC + APIC_LVT_LINT0
    movl $0x10000, APIC + APIC_LVT_LINT1
    movl $0x10000 | VECTOR_TIMER, APIC + APIC_LVT_TIMER
    movl $0x100 | VECTOR_SPURIOUS, APIC + APIC_SPURIOUS
    ret

// G_TIMER_COUNT: the timer's counts in one period. The APIC's clock is compared with the TSC over 2 ms.
timer_calibrate:
    movq O_TIMER, %rax
    movq %rax, SELFTEST_SHARED_ADDRESS + SELFTEST_SHARED_OFFSET_TIMER_HZ
    testq %rax, %rax
    jz 9f
    cmpq $TIMER_DEADLINE, O_TIMER_MODE
    je 2f
    movl $0xb, APIC + APIC_TIMER_DIV    // divide by 1
    TSC64
    movq %rax, %rsi
    movl $0xffffffff, APIC + APIC_TIMER_INIT
    movl $2000, %ecx
    call delay
    movl APIC + APIC_TIMER_NOW, %r8d
    TSC64
    subq %rax, %rsi
    negq %rsi                           // cycles
    movl $0, APIC + APIC_TIMER_INIT
    notl %r8d                           // counts
    movq %r8, %rax
    mulq G_TSC_KHZ
    divq %rsi                           // counts a millisecond
    imulq $1000, %rax
    xorl %edx, %edx
    divq O_TIMER
    movq %rax, G_TIMER_COUNT
    ret
2:  // Deadline mode counts in cycles. Its handler takes the period from the first vCPU's block.
    btl $F_DEADLINE, G_FEATURES
    jnc 3f
    imulq $1000, G_TSC_KHZ, %rax
    xorl %edx, %edx
    divq O_TIMER
    movq %rax, CPU_BLOCKS + C_DEADLINE
    movw $(STUB_DEADLINE & 0xffff), IDT + VECTOR_TIMER * 16
9:  ret
3:  call line_begin
    PUT s_error_deadline
    jmp fatal_line

// On each vCPU.
timer_start:
    cmpq $0, O_TIMER
    je 9f
    cmpq $TIMER_DEADLINE, O_TIMER_MODE
    je 2f
    movl $0xb, APIC + APIC_TIMER_DIV
    movl $0x20000 | VECTOR_TIMER, APIC + APIC_LVT_TIMER
    movl G_TIMER_COUNT, %eax
    movl %eax, APIC + APIC_TIMER_INIT
    ret
2:  movl $0x40000 | VECTOR_TIMER, APIC + APIC_LVT_TIMER
    mfence                              // the mode must be set before the deadline is (SDM vol. 3, APIC timer)
    TSC64
    addq CPU_BLOCKS + C_DEADLINE, %rax
    movq %rax, %rdx
    movl %eax, %esi
    shrq $32, %rdx
    movl $0x6e0, %ecx
    RING0 ring0_write_msr
9:  ret
