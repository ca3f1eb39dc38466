// The lines that the guest prints. Sources/SelfTest parses them, docs/selftest-guest.md lists them; they change together.

    .code64

.macro DECIMAL name, value
    PUT \name
    movq \value, %rax
    call put_decimal
.endm
.macro HEXADECIMAL name, value
    PUT \name
    movq \value, %rax
    call put_hex
.endm
.macro WORD name, list, value
    PUT \name
    movq \value, %rax
    leaq \list(%rip), %rsi
    call put_word
.endm
.macro FEATURE name, bit
    PUT \name
    movq G_FEATURES, %rax
    shrl $\bit, %eax
    andl $1, %eax
    call put_decimal
.endm

print_boot:
    call line_begin
    PUT s_boot
    movl $SELFTEST_VERSION, %eax
    call put_decimal
    DECIMAL k_cpus, G_CPUS
    DECIMAL k_tsc_khz, G_TSC_KHZ
    WORD k_tsc_source, w_tsc_sources, G_TSC_SOURCE
    FEATURE k_kvmclock, F_KVMCLOCK
    FEATURE k_avx, F_AVX
    FEATURE k_fsgsbase, F_FSGSBASE
    DECIMAL k_timer_hz, O_TIMER
    WORD k_timer_mode, w_timer_modes, O_TIMER_MODE
    WORD k_idle, w_idles, O_IDLE
    DECIMAL k_seed, O_SEED
    jmp line_end

print_ready:
    call line_begin
    PUT s_ready
    movq G_PAGES, %rax
    call put_decimal
    PUT k_first
    xorl %ebx, %ebx
    call page_address
    call put_hex
    PUT k_last
    movq G_PAGES, %rbx
    decq %rbx
    call page_address
    call put_hex
    PUT k_elapsed_ms
    movq SELFTEST_SHARED_ADDRESS + SELFTEST_SHARED_OFFSET_READY_TSC, %rax
    call put_elapsed
    jmp line_end

// rax = TSC: milliseconds since the main program began.
put_elapsed:
    subq SELFTEST_SHARED_ADDRESS + SELFTEST_SHARED_OFFSET_BOOT_TSC, %rax
    xorl %edx, %edx
    divq G_TSC_KHZ
    jmp put_decimal

// Prints wrong pages that have been recorded by any vCPU. Keeps rbx, rbp, r12, r13.
print_new_bad:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    xorl %ebp, %ebp
1:  imulq $CPU_BLOCK_BYTES, %rbp, %r12
    addq $CPU_BLOCKS, %r12
2:  movq C_BAD_PRINTED(%r12), %rax
    cmpq C_BAD_COUNT(%r12), %rax
    jae 4f
    andl $BAD_MAX - 1, %eax
    imull $BAD_BYTES, %eax, %eax
    leaq C_BAD_RECORDS(%r12, %rax), %r13
    movq G_BAD_REPORTED, %rax
    cmpq O_BAD_LINES, %rax
    jae 3f
    incq G_BAD_REPORTED
    call line_begin
    PUT s_bad
    movq BAD_PAGE(%r13), %rax
    call put_decimal
    PUT k_gpa
    movq BAD_PAGE(%r13), %rbx
    call page_address
    call put_hex
    WORD k_kind, w_kinds, BAD_KIND(%r13)
    DECIMAL k_cpu, %rbp
    HEXADECIMAL k_number_expected, BAD_NUMBER_EXP(%r13)
    HEXADECIMAL k_number_found, BAD_NUMBER(%r13)
    PUT k_generation_expected
    movl BAD_GEN_EXP(%r13), %eax
    call put_decimal
    PUT k_generation_found
    movl BAD_GEN(%r13), %eax
    call put_decimal
    PUT k_checksum_expected
    movl BAD_STAMP_EXP + 4(%r13), %eax
    call put_hex
    PUT k_checksum_found
    movl BAD_STAMP + 4(%r13), %eax
    call put_hex
    HEXADECIMAL k_sum_expected, BAD_SUM_EXP(%r13)
    HEXADECIMAL k_sum_found, BAD_SUM(%r13)
    DECIMAL k_tsc, BAD_TSC(%r13)
    call line_end
3:  incq C_BAD_PRINTED(%r12)
    jmp 2b
4:  incq %rbp
    cmpq G_CPUS, %rbp
    jb 1b
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

// rbx = wrong pages, rbp = cycles.
print_verify:
    call line_begin
    PUT s_verify
    movq G_PAGES, %rax
    call put_decimal
    DECIMAL k_bad, %rbx
    PUT k_ms
    movq %rbp, %rax
    xorl %edx, %edx
    divq G_TSC_KHZ
    call put_decimal
    jmp line_end

// rax = the sum of counter rcx (offset in the entry) over all vCPUs. Clobbers rdx, rsi.
sum_of_counter:
    xorl %eax, %eax
    addq $SELFTEST_VCPU_ADDRESS, %rcx
    movq G_CPUS, %rdx
1:  addq (%rcx), %rax
    addq $SELFTEST_VCPU_BYTES, %rcx
    decq %rdx
    jnz 1b
    ret

// eax = SELFTEST_EXIT_PASS or SELFTEST_EXIT_FAIL.
verdict:
    xorl %r8d, %r8d
    .irp counter, SELFTEST_VCPU_OFFSET_ERRORS, SELFTEST_VCPU_OFFSET_TIMER_STALLS, SELFTEST_VCPU_OFFSET_TSC_BACKWARD, SELFTEST_VCPU_OFFSET_CLOCK_BACKWARD, SELFTEST_VCPU_OFFSET_REGISTER_FAILURES, SELFTEST_VCPU_OFFSET_HEARTBEAT_FAILURES
    movl $\counter, %ecx
    call sum_of_counter
    orq %rax, %r8
    .endr
    xorl %eax, %eax
    testq %r8, %r8
    setnz %al
    ret

.macro COUNTER name, offset
    PUT \name
    movl $\offset, %ecx
    call sum_of_counter
    call put_decimal
.endm
.macro CPU_COUNTER name, offset
    PUT \name
    movq \offset(%r12), %rax
    call put_decimal
.endm

// One line per vCPU, its gaps, and the sum. The sum comes last: who has read it has read the report.
print_report:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    xorl %ebx, %ebx
1:  imulq $SELFTEST_VCPU_BYTES, %rbx, %r12
    addq $SELFTEST_VCPU_ADDRESS, %r12
    call line_begin
    PUT s_cpu
    movq %rbx, %rax
    call put_decimal
    CPU_COUNTER k_sequence, SELFTEST_VCPU_OFFSET_SEQUENCE
    CPU_COUNTER k_written, SELFTEST_VCPU_OFFSET_PAGES_WRITTEN
    CPU_COUNTER k_read, SELFTEST_VCPU_OFFSET_PAGES_READ
    CPU_COUNTER k_verified, SELFTEST_VCPU_OFFSET_PAGES_VERIFIED
    CPU_COUNTER k_errors, SELFTEST_VCPU_OFFSET_ERRORS
    CPU_COUNTER k_ticks, SELFTEST_VCPU_OFFSET_TIMER_TICKS
    CPU_COUNTER k_stalls, SELFTEST_VCPU_OFFSET_TIMER_STALLS
    CPU_COUNTER k_tsc_backward, SELFTEST_VCPU_OFFSET_TSC_BACKWARD
    CPU_COUNTER k_tsc_step, SELFTEST_VCPU_OFFSET_TSC_STEP
    CPU_COUNTER k_clock_backward, SELFTEST_VCPU_OFFSET_CLOCK_BACKWARD
    CPU_COUNTER k_register_checks, SELFTEST_VCPU_OFFSET_REGISTER_CHECKS
    CPU_COUNTER k_register_failures, SELFTEST_VCPU_OFFSET_REGISTER_FAILURES
    PUT k_register_mask
    movl SELFTEST_VCPU_OFFSET_REGISTER_MASK(%r12), %eax
    call put_hex
    CPU_COUNTER k_heartbeat_failures, SELFTEST_VCPU_OFFSET_HEARTBEAT_FAILURES
    call line_end
    leaq SELFTEST_VCPU_OFFSET_GAPS(%r12), %rbp
    movl $SELFTEST_GAPS, %r13d
2:  movq 8(%rbp), %rax
    subq (%rbp), %rax
    jz 3f
    call cycles_to_ns
    pushq %rax
    call line_begin
    PUT s_gap
    movq %rbx, %rax
    call put_decimal
    PUT k_ns
    popq %rax
    call put_decimal
    DECIMAL k_from, (%rbp)
    DECIMAL k_to, 8(%rbp)
    call line_end
3:  addq $16, %rbp
    decl %r13d
    jnz 2b
    incq %rbx
    cmpq G_CPUS, %rbx
    jb 1b

    // The largest gap of all: rbp = its address.
    movq $0, G_SUM
    movl $SELFTEST_VCPU_ADDRESS + SELFTEST_VCPU_OFFSET_GAPS, %ebp
    xorl %ebx, %ebx
4:  imulq $SELFTEST_VCPU_BYTES, %rbx, %r12
    addq $SELFTEST_VCPU_ADDRESS + SELFTEST_VCPU_OFFSET_GAPS, %r12
    movl $SELFTEST_GAPS, %ecx
5:  movq 8(%r12), %rax
    subq (%r12), %rax
    cmpq G_SUM, %rax
    jbe 6f
    movq %rax, G_SUM
    movq %r12, %rbp
6:  addq $16, %r12
    decl %ecx
    jnz 5b
    incq %rbx
    cmpq G_CPUS, %rbx
    jb 4b
    call line_begin
    PUT s_report
    TSC64
    call put_elapsed
    DECIMAL k_cpus, G_CPUS
    DECIMAL k_pages, G_PAGES
    DECIMAL k_tsc_khz, G_TSC_KHZ
    COUNTER k_sequence, SELFTEST_VCPU_OFFSET_SEQUENCE
    COUNTER k_written, SELFTEST_VCPU_OFFSET_PAGES_WRITTEN
    COUNTER k_read, SELFTEST_VCPU_OFFSET_PAGES_READ
    COUNTER k_verified, SELFTEST_VCPU_OFFSET_PAGES_VERIFIED
    COUNTER k_errors, SELFTEST_VCPU_OFFSET_ERRORS
    COUNTER k_ticks, SELFTEST_VCPU_OFFSET_TIMER_TICKS
    COUNTER k_stalls, SELFTEST_VCPU_OFFSET_TIMER_STALLS
    COUNTER k_tsc_backward, SELFTEST_VCPU_OFFSET_TSC_BACKWARD
    COUNTER k_clock_backward, SELFTEST_VCPU_OFFSET_CLOCK_BACKWARD
    COUNTER k_register_failures, SELFTEST_VCPU_OFFSET_REGISTER_FAILURES
    COUNTER k_heartbeat_failures, SELFTEST_VCPU_OFFSET_HEARTBEAT_FAILURES
    PUT k_gap_ns
    movq G_SUM, %rax
    call cycles_to_ns
    call put_decimal
    DECIMAL k_gap_from, (%rbp)
    DECIMAL k_gap_to, 8(%rbp)
    PUT k_verdict
    call verdict
    leaq w_verdicts(%rip), %rsi
    call put_word
    call line_end
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

// The exception of the vCPU whose block is rdi, and the end. Runs on vCPU 0 alone.
print_fault:
    movq %rdi, %r12
    call line_begin
    PUT s_fault
    movq C_INDEX(%r12), %rax
    call put_decimal
    PUT k_vector
    movq C_FAULT(%r12), %rax
    decq %rax
    call put_decimal
    HEXADECIMAL k_error, C_FAULT_ERROR(%r12)
    HEXADECIMAL k_rip, C_FAULT_RIP(%r12)
    HEXADECIMAL k_cr2, C_FAULT_CR2(%r12)
    jmp fatal_line
