// The working loop of each vCPU.

    .code64

// This vCPU's share of everything, from the options.
workload_init:
    // Slices of pages; the last vCPU takes what is left over.
    movq G_PAGES, %rax
    xorl %edx, %edx
    divq G_CPUS
    movq %rax, C_COUNT(%r15)
    movq C_INDEX(%r15), %rcx
    imulq %rcx, %rax
    movq %rax, C_FIRST(%r15)
    incq %rcx
    cmpq G_CPUS, %rcx
    jne 1f
    movq G_PAGES, %rdx
    subq %rax, %rdx
    movq %rdx, C_COUNT(%r15)
1:  movq O_INIT, %rax
    call share_of_pages
    movq %rax, C_INIT(%r15)
    movq O_WORKING, %rax
    testq %rax, %rax
    jnz 2f
    decq %rax                           // not given: all
2:  call share_of_pages
    testq %rax, %rax
    jnz 3f
    incl %eax
3:  movq %rax, C_WORKING(%r15)
    // The window of the phase pattern, the hot part of hot/cold.
    movq %rax, %rcx
    shrq $3, %rax
    jnz 4f
    incl %eax
4:  movq %rax, C_WINDOW(%r15)
    movq %rcx, %rax
    mulq O_HOTSET
    movl $100, %ecx
    divq %rcx
    movq %rax, C_HOT(%r15)
    // Paces.
    movq O_RATE, %rax
    call cycles_per_page
    movq %rax, C_WRITE_CYCLES(%r15)
    movq O_READS, %rax
    call cycles_per_page
    movq %rax, C_READ_CYCLES(%r15)
    // 20 ms, and two periods of the timer if it is slower: a halted vCPU wakes with it.
    imulq $20, G_TSC_KHZ, %rcx
    movq O_TIMER, %rsi
    testq %rsi, %rsi
    jz 5f
    imulq $2000, G_TSC_KHZ, %rax
    xorl %edx, %edx
    divq %rsi
    addq %rax, %rcx
5:  movq %rcx, C_BACKLOG(%r15)
    ret

// rax = MiB of the whole VM, -1 for all -> rax = pages of this vCPU, at most C_COUNT.
share_of_pages:
    testq %rax, %rax
    js 1f
    shlq $8, %rax
    xorl %edx, %edx
    divq G_CPUS
    cmpq C_COUNT(%r15), %rax
    jbe 2f
1:  movq C_COUNT(%r15), %rax
2:  ret

// rax = MB/s of the whole VM -> rax = cycles between two pages of this vCPU: tsc_khz * 4096 * cpus / (rate * 1000).
// 0 without a limit, all ones for no work at all.
cycles_per_page:
    testq %rax, %rax
    jz 1f
    cmpq $RATE_MAX, %rax
    je 2f
    imulq $1000, %rax, %rcx
    movq G_TSC_KHZ, %rax
    shlq $12, %rax
    mulq G_CPUS
    divq %rcx
    ret
1:  decq %rax
    ret
2:  xorl %eax, %eax
    ret

// The loop: a heartbeat, then whatever is due.
workload:
    call gaps_reset
    movq C_LAST_TSC(%r15), %rax
    movq %rax, C_DUTY_NEXT(%r15)
    movq $0, C_TICKS_TSC(%r15)          // a count of duties, not an instant
    movq %rax, C_PHASE_NEXT(%r15)
    cmpq $-1, C_WRITE_CYCLES(%r15)
    sete %cl
    movzbl %cl, %ecx
    negq %rcx
    orq %rax, %rcx
    movq %rcx, C_WRITE_NEXT(%r15)       // all ones: never
    cmpq $-1, C_READ_CYCLES(%r15)
    sete %cl
    movzbl %cl, %ecx
    negq %rcx
    orq %rax, %rcx
    movq %rcx, C_READ_NEXT(%r15)

turn:
    call beat
    movq %rax, %rbp                     // rbp = now
    cmpq C_DUTY_NEXT(%r15), %rbp
    jae turn_duties
    cmpq C_WRITE_NEXT(%r15), %rbp
    jae turn_write
    cmpq C_READ_NEXT(%r15), %rbp
    jae turn_read
    cmpq $IDLE_SPIN, O_IDLE
    je 1f
    RING0 ring0_halt                    // until the next tick
    jmp turn
1:  pause
    jmp turn

turn_duties:
    call duties
    jmp turn

turn_write:
    leaq C_WRITE_CURSOR(%r15), %rsi
    call page_pick
    call page_check
    call page_rewrite
    movq C_WRITE_NEXT(%r15), %rax
    addq C_WRITE_CYCLES(%r15), %rax
    call forgive
    movq %rax, C_WRITE_NEXT(%r15)
    // Reads get their turn even if writes are always due.
    cmpq C_READ_NEXT(%r15), %rbp
    jb turn

turn_read:
    leaq C_READ_CURSOR(%r15), %rsi
    call page_pick
    call page_check
    incq SELFTEST_VCPU_OFFSET_PAGES_READ(%r14)
    movq C_READ_NEXT(%r15), %rax
    addq C_READ_CYCLES(%r15), %rax
    call forgive
    movq %rax, C_READ_NEXT(%r15)
    jmp turn

// rax = when the next page is due. What could not be done in C_BACKLOG is not made up for, or a
// stopped VM would come back with a burst that nobody asked for.
forgive:
    movq %rbp, %rcx
    subq C_BACKLOG(%r15), %rcx
    cmpq %rcx, %rax
    cmovbq %rcx, %rax
    ret

// rbx = the page that is next by the pattern; rsi = address of the cursor for sequential access.
page_pick:
    movq O_PATTERN, %rax
    cmpl $PATTERN_HOTCOLD, %eax
    je pick_hotcold
    cmpl $PATTERN_SEQUENTIAL, %eax
    je pick_sequential
    cmpl $PATTERN_PHASE, %eax
    je pick_phase
    // Uniform, and sparse.
    RANDOM %rax, %rdx
    mulq C_WORKING(%r15)
pick_done:
    movq C_FIRST(%r15), %rbx
    addq %rdx, %rbx
    ret

pick_hotcold:
    RANDOM %rax, %rdx
    movl $100, %ecx
    mulq %rcx
    movq %rdx, %rcx                     // 0 to 99
    RANDOM %rax, %rdx
    cmpq O_HOT, %rcx
    jae 1f
    mulq C_HOT(%r15)                    // hot: the first C_HOT pages
    jmp pick_done
1:  movq C_WORKING(%r15), %rcx
    subq C_HOT(%r15), %rcx
    jz 2f
    mulq %rcx
    addq C_HOT(%r15), %rdx
    jmp pick_done
2:  mulq C_WORKING(%r15)
    jmp pick_done

pick_sequential:
    movq (%rsi), %rdx
    leaq 1(%rdx), %rax
    cmpq C_WORKING(%r15), %rax
    jb 1f
    xorl %eax, %eax
1:  movq %rax, (%rsi)
    jmp pick_done

pick_phase:
    RANDOM %rax, %rdx
    mulq C_WINDOW(%r15)
    addq C_PHASE_BASE(%r15), %rdx
    jmp pick_done
