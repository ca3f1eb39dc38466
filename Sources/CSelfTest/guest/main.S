// The main programs, in ring 3.

    .code64

// The bootstrap processor. rbx = start_info.
bootstrap_main:
    cld
    movq %rbx, G_START_INFO
    TSC64
    movq %rax, SELFTEST_SHARED_ADDRESS + SELFTEST_SHARED_OFFSET_BOOT_TSC
    movl $SELFTEST_STATE_STARTING, SELFTEST_SHARED_ADDRESS + SELFTEST_SHARED_OFFSET_STATE
    call serial_init
    call interrupts_silence
    call direct_map_init
    call read_start_info
    call options_parse
    call options_check
    call cpu_features
    call cpu_init
    call tsc_init
    call cpus_find
    call memory_own
    call weights_init
    call workload_init
    call apic_init
    call timer_calibrate
    call timer_start
    call print_boot
    call cpus_start
    call pages_init
    call cpus_wait
    TSC64
    movq %rax, SELFTEST_SHARED_ADDRESS + SELFTEST_SHARED_OFFSET_READY_TSC
    movl $SELFTEST_STATE_RUNNING, SELFTEST_SHARED_ADDRESS + SELFTEST_SHARED_OFFSET_STATE
    call duties_init
    call print_ready
    incq G_START_EPOCH
    RING0 ring0_enable_interrupts
    jmp workload

// An application processor.
application_main:
    cld
    call cpu_init
    call apic_init
    call timer_start
    movl $SELFTEST_STATE_STARTING, SELFTEST_VCPU_OFFSET_STATE(%r14)
    call workload_init
    call pages_init
    movl $SELFTEST_STATE_RUNNING, SELFTEST_VCPU_OFFSET_STATE(%r14)
1:  pause
    cmpq $0, G_START_EPOCH
    je 1b
    RING0 ring0_enable_interrupts
    jmp workload

// Prints the line begun at rdi as a fatal error and ends the VM.
fatal_line:
    call line_end
    movl $SELFTEST_EXIT_FATAL, %ebx
    jmp machine_exit

// Ends the VM with code ebx.
machine_exit:
    movl $SELFTEST_STATE_STOPPED, SELFTEST_SHARED_ADDRESS + SELFTEST_SHARED_OFFSET_STATE
    movl $1, G_STOP
    movl %ebx, %eax
    movl $SELFTEST_EXIT_PORT, %edx
    outb %al, %dx
    // Nobody listened: stand still.
    RING0 ring0_stop

// After an exception that nobody expected; rdi = this vCPU's block. vCPU 0 prints it, whosever it was.
fault_main:
    leaq C_USER_STACK(%rdi), %rsp
    movq %rdi, %r15
    imulq $SELFTEST_VCPU_BYTES, C_INDEX(%r15), %r14
    addq $SELFTEST_VCPU_ADDRESS, %r14
    cld
    movl $SELFTEST_STATE_STOPPED, SELFTEST_VCPU_OFFSET_STATE(%r14)
    cmpq $0, C_INDEX(%r15)
    je print_fault
    RING0 ring0_stop
