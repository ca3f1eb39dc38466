// What is not work: checks of registers and clocks, and what vCPU 0 does for all (commands, reports, the end).

    .code64

#define DUTY_MS     10
#define SERIAL_MS   100

// vCPU 0, before the work begins.
duties_init:
    TSC64
    movq %rax, G_SERIAL_NEXT
    imulq $1000, G_TSC_KHZ, %rcx        // cycles a second
    movq O_INTERVAL, %rdx
    imulq %rcx, %rdx
    addq %rax, %rdx
    movq %rdx, G_REPORT_NEXT
    imulq O_SECONDS, %rcx
    addq %rcx, %rax
    movq %rax, G_END_TSC
    ret

// On each vCPU, every DUTY_MS. rbp = now.
duties:
    imulq $DUTY_MS, G_TSC_KHZ, %rax
    addq %rbp, %rax
    movq %rax, C_DUTY_NEXT(%r15)
    call registers_check
    call clock_check
    call ticks_check
    // The phase pattern moves its window.
    cmpq C_PHASE_NEXT(%r15), %rbp
    jb 1f
    imulq $1000, G_TSC_KHZ, %rax
    imulq O_PHASE, %rax
    addq %rbp, %rax
    movq %rax, C_PHASE_NEXT(%r15)
    movq C_WORKING(%r15), %rcx
    subq C_WINDOW(%r15), %rcx
    incq %rcx
    RANDOM %rax, %rdx
    mulq %rcx
    movq %rdx, C_PHASE_BASE(%r15)
1:  movq G_GAP_EPOCH, %rax
    cmpq C_GAP_EPOCH(%r15), %rax
    je 2f
    movq %rax, C_GAP_EPOCH(%r15)
    call gaps_reset
2:  cmpq $0, G_STOP
    jne vcpu_stop
    cmpq $0, C_INDEX(%r15)
    je bootstrap_duties
    movq G_VERIFY_EPOCH, %rax
    cmpq C_VERIFY_EPOCH(%r15), %rax
    jne verify_slice
    ret

vcpu_stop:
    movl $SELFTEST_STATE_STOPPED, SELFTEST_VCPU_OFFSET_STATE(%r14)
    RING0 ring0_stop

// Adds up the ticks, and notices a timer that is dead: no tick for ten periods and 5 s of being awake. A dead timer stays
// dead; one that is only late is the host's business (an emulator's timer thread may not get its turn for long).
ticks_check:
    movq C_TICKS_RING3(%r15), %rax
    addq C_TICKS_HALT(%r15), %rax
    movq %rax, SELFTEST_VCPU_OFFSET_TIMER_TICKS(%r14)
    cmpq $0, O_TIMER
    je 9f
    cmpq C_TICKS_SEEN(%r15), %rax
    je 1f
    movq %rax, C_TICKS_SEEN(%r15)
    movq $0, C_TICKS_TSC(%r15)
    ret
1:  // Counted in duties, not in time: a VM that was stopped could not tick either.
    incq C_TICKS_TSC(%r15)
    movl $10 * 1000 / DUTY_MS, %eax
    xorl %edx, %edx
    divq O_TIMER
    addq $5000 / DUTY_MS, %rax
    cmpq %rax, C_TICKS_TSC(%r15)
    jbe 9f
    movq $0, C_TICKS_TSC(%r15)
    incq SELFTEST_VCPU_OFFSET_TIMER_STALLS(%r14)
9:  ret

bootstrap_duties:
    call print_new_bad
    // Someone else's exception ends the run.
    xorl %ebx, %ebx
1:  imulq $CPU_BLOCK_BYTES, %rbx, %rdi
    addq $CPU_BLOCKS, %rdi
    cmpq $0, C_FAULT(%rdi)
    jne print_fault
    incq %rbx
    cmpq G_CPUS, %rbx
    jb 1b
    cmpq G_SERIAL_NEXT, %rbp
    jb 2f
    imulq $SERIAL_MS, G_TSC_KHZ, %rax
    addq %rbp, %rax
    movq %rax, G_SERIAL_NEXT
    call serial_command
2:  cmpq $0, O_INTERVAL
    je 3f
    cmpq G_REPORT_NEXT, %rbp
    jb 3f
    imulq $1000, G_TSC_KHZ, %rax
    imulq O_INTERVAL, %rax
    addq %rbp, %rax
    movq %rax, G_REPORT_NEXT
    call print_report
3:  cmpq $0, O_SECONDS
    je 4f
    cmpq G_END_TSC, %rbp
    jae finish
4:  ret

// One command, if one has arrived.
serial_command:
    movl $0x3fd, %edx
    inb %dx, %al
    testb $1, %al
    jz 9f
    movl $0x3f8, %edx
    inb %dx, %al
    cmpb $'r', %al
    je print_report
    cmpb $'v', %al
    je command_verify
    cmpb $'g', %al
    je command_reset_gaps
    cmpb $'q', %al
    je finish
9:  ret

command_verify:
    call verify_all
    movq %r8, %rbx
    movq %rax, %rbp
    call print_verify
    ret

command_reset_gaps:
    incq G_GAP_EPOCH
    call line_begin
    PUT s_gaps_reset
    jmp line_end

// The end: everything is verified, reported, and the VM exits with the verdict.
finish:
    call verify_all
    movq %r8, %rbx
    movq %rax, %rbp
    call print_verify
    call print_report
    call verdict
    movl %eax, %ebx
    call line_begin
    PUT s_exit
    movl %ebx, %eax
    call put_decimal
    call line_end
    jmp machine_exit
