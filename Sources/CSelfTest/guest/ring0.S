// The routines of ring 0 that ring 3 calls with RING0. They arrive with the breakpoint's frame on the stack (rip, cs,
// rflags, rsp, ss) and return with iretq. rax is theirs.

    .code64

// MSR ecx = edx:esi.
ring0_write_msr:
    movl %esi, %eax
    wrmsr
    iretq

// CR4 = rsi.
ring0_write_cr4:
    movq %rsi, %cr4
    iretq

// XCR0 = esi. Needs CR4.OSXSAVE.
ring0_write_xcr0:
    movl %esi, %eax
    xorl %ecx, %ecx
    xorl %edx, %edx
    xsetbv
    iretq

// Ring 3 goes on with interrupts enabled.
ring0_enable_interrupts:
    orl $0x200, 16(%rsp)
    iretq

// Ring 3 goes on with interrupts disabled.
ring0_disable_interrupts:
    andl $~0x200, 16(%rsp)
    iretq

// Waits for an interrupt. The stack is first moved to a depth that no other code uses, so that the tick which ends the
// HLT counts itself in C_TICKS_HALT (stubs.S), at an address that is a multiple of 16 as the processor aligns it.
// Interrupts are off again before the stack is moved back.
ring0_halt:
    subq $HALT_DEPTH, %rsp
    sti
    hlt
    cli
    addq $HALT_DEPTH, %rsp
    iretq

// The end of this vCPU: without interrupts, HLT stands still.
ring0_stop:
    cli
    hlt
    jmp ring0_stop

// An exception that nobody expected. The stack holds vector, error code and the processor's frame. What happened is kept
// in the vCPU's block, and ring 3 goes on in fault_main, which tells it: printing in ring 0 would take seconds.
unexpected:
    movq %rsp, %rax
    andq $~(CPU_BLOCK_BYTES - 1), %rax
    movq (%rsp), %rcx
    incq %rcx
    movq %rcx, C_FAULT(%rax)
    movq 8(%rsp), %rcx
    movq %rcx, C_FAULT_ERROR(%rax)
    movq 16(%rsp), %rcx
    movq %rcx, C_FAULT_RIP(%rax)
    movq %cr2, %rcx
    movq %rcx, C_FAULT_CR2(%rax)
    movl %eax, %edi
    movl $GA(fault_frame), %esp
    iretq

    .p2align 3, 0
fault_frame:
    .quad GA(fault_main)
    .quad USER_CODE
    .quad USER_FLAGS
    .quad 0
    .quad USER_DATA
