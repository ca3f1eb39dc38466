// Where interrupts and exceptions arrive, 16 bytes apart from STUBS on. Each instruction here may cost microseconds.

    .code64

.macro EXCEPTION vector, has_error
    .org STUBS - SELFTEST_LOAD_ADDRESS + (\vector) * 16, 0xcc
    .ifeq \has_error
    pushq $0
    .endif
    pushq $\vector
    jmp unexpected
.endm

    EXCEPTION 0, 0
    EXCEPTION 1, 0
    EXCEPTION 2, 0
    // The call gate: ring 3 executes int3 with the address of a ring 0 routine in rax. (SYSCALL and INT n do not work
    // under kvm_pvm; int3 does.)
    .org STUBS - SELFTEST_LOAD_ADDRESS + VECTOR_BREAKPOINT * 16, 0xcc
    jmp *%rax
    EXCEPTION 4, 0
    EXCEPTION 5, 0
    EXCEPTION 6, 0
    EXCEPTION 7, 0
    EXCEPTION 8, 1
    EXCEPTION 9, 0
    EXCEPTION 10, 1
    EXCEPTION 11, 1
    EXCEPTION 12, 1
    EXCEPTION 13, 1
    EXCEPTION 14, 1
    EXCEPTION 15, 0
    EXCEPTION 16, 0
    EXCEPTION 17, 1
    EXCEPTION 18, 0
    EXCEPTION 19, 0
    EXCEPTION 20, 0
    EXCEPTION 21, 1
    EXCEPTION 22, 0
    EXCEPTION 23, 0
    EXCEPTION 24, 0
    EXCEPTION 25, 0
    EXCEPTION 26, 0
    EXCEPTION 27, 0
    EXCEPTION 28, 0
    EXCEPTION 29, 1
    EXCEPTION 30, 1
    EXCEPTION 31, 0

    // The timer, periodic. Without a single register saved: the stack pointer says which vCPU this is, since the frame
    // starts at the top of its ring 0 stack, and the word above the frame is the count of ticks. An interrupt that ends
    // a HLT finds another stack depth and so another count (halt in ring0.S); the two are added up in ring 3.
    .org STUB_TIMER - SELFTEST_LOAD_ADDRESS, 0xcc
    incq 40(%rsp)
    movl $0, APIC + APIC_EOI
    iretq

    // A spurious interrupt wants no EOI.
    .org STUB_SPURIOUS - SELFTEST_LOAD_ADDRESS, 0xcc
    iretq

    // The timer in deadline mode: it must be armed again each time, one period from now.
    .org STUB_DEADLINE - SELFTEST_LOAD_ADDRESS, 0xcc
    incq 40(%rsp)
    pushq %rax
    pushq %rcx
    pushq %rdx
    movl $0, APIC + APIC_EOI
    rdtsc
    addl CPU_BLOCKS + C_DEADLINE, %eax
    adcl $0, %edx
    movl $0x6e0, %ecx
    wrmsr
    popq %rdx
    popq %rcx
    popq %rax
    iretq
