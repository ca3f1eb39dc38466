// What the boot loader left (start_info) and the command line: name=value words, separated by blanks.
// The Swift side (Sources/SelfTest) writes the same words from a value; a test compares the two lists.

    .code64

// Maps the first 4 GiB at DIRECT. Ring 3 does it natively; the directories have not been used yet, so a shadow pager
// does not watch them.
direct_map_init:
    movl $PT_LARGE, %eax
    movl $PD_DIRECT, %edi
    movl $2048, %ecx
1:  movq %rax, (%rdi)
    addq $LARGE_PAGE, %rax
    addq $8, %rdi
    decl %ecx
    jnz 1b
    ret

// Copies what is needed of start_info, because owned memory may cover it. rbp and rbx are used.
read_start_info:
    movabsq $DIRECT, %rbp
    movq G_START_INFO, %rbx
    addq %rbp, %rbx
    call line_begin
    PUT s_error_start_info
    cmpl $0x336ec578, (%rbx)            // XEN_HVM_START_MAGIC_VALUE
    jne fatal_line
    cmpl $1, 4(%rbx)                    // the memory map came with version 1
    jb fatal_line
    movl 48(%rbx), %ecx
    testl %ecx, %ecx
    jz fatal_line
    movl $MEMORY_MAP_MAX, %eax
    cmpl %eax, %ecx
    cmoval %eax, %ecx
    movq %rcx, G_MAP_COUNT
    imull $3, %ecx                      // entries of 24 bytes
    movq 40(%rbx), %rsi
    addq %rbp, %rsi
    movl $MEMORY_MAP, %edi
    rep movsq
    movq 32(%rbx), %rax
    movq %rax, G_RSDP
    // The command line, up to its zero.
    movq 24(%rbx), %rsi
    testq %rsi, %rsi
    jz 2f
    addq %rbp, %rsi
    movl $COMMAND_LINE, %edi
    movl $4096, %ecx
1:  lodsb
    stosb
    testb %al, %al
    loopnz 1b
    jz 2f
    call line_begin
    PUT s_error_option
    PUT s_too_long
    jmp fatal_line
2:  ret

// One option: name, list of words or 0, default, smallest, largest number. `max` stands for the largest.
.macro OPTION name, words, initial, smallest, largest
    .long \name - image, \words
    .quad \initial, \smallest, \largest
.endm
#define OPTION_BYTES 32
#define RATE_MAX 1000000000

    .p2align 3, 0
option_table:
    OPTION n_memory, 0, 0, 0, 0x4000000
    OPTION n_ws, 0, 0, 0, 0x4000000
    OPTION n_init, 0, UNSET, 0, 0x4000000
    OPTION n_cpus, 0, 0, 0, SELFTEST_MAX_VCPUS
    OPTION n_rate, 0, 0, 0, RATE_MAX
    OPTION n_reads, 0, 0, 0, RATE_MAX
    OPTION n_pattern, (w_patterns - image), PATTERN_UNIFORM, 0, 0
    OPTION n_fill, 0, 64, 8, 4096
    OPTION n_content, (w_contents - image), CONTENT_RANDOM, 0, 0
    OPTION n_hot, 0, 90, 0, 100
    OPTION n_hotset, 0, 10, 0, 100
    OPTION n_phase, 0, 3, 1, 86400
    OPTION n_timer, 0, UNSET, 0, 10000
    OPTION n_timer_mode, (w_timer_modes - image), TIMER_PERIODIC, 0, 0
    OPTION n_idle, (w_idles - image), IDLE_HALT, 0, 0
    OPTION n_seconds, 0, 0, 0, 100000000
    OPTION n_check, (w_checks - image), CHECK_FULL, 0, 0
    OPTION n_seed, 0, 1, 0, 0x7fffffffffffffff
    OPTION n_interval, 0, 0, 0, 100000000
    OPTION n_bad_lines, 0, 64, 0, 1000000
    OPTION n_vector, (w_vectors - image), VECTOR_AVX, 0, 0
option_table_end:

// Sets all options. A word that is unknown, or a value out of range, ends the VM: a run with other options than those
// asked for would be worth nothing.
options_parse:
    leaq option_table(%rip), %rbx
    leaq option_table_end(%rip), %r12
    movl $O_FIRST, %edi
1:  movq 8(%rbx), %rax
    stosq
    addq $OPTION_BYTES, %rbx
    cmpq %r12, %rbx
    jb 1b

    movl $COMMAND_LINE, %r13d           // r13 = start of a word
next_word:
    movzbl (%r13), %eax
    incq %r13
    cmpb $' ', %al
    je next_word
    decq %r13
    testb %al, %al
    jz 9f
    leaq option_table(%rip), %rbx
try_option:
    movl (%rbx), %esi
    leaq image(%rip), %rax
    addq %rax, %rsi
    movq %r13, %rdi
2:  lodsb                               // name and word, byte by byte
    testb %al, %al
    jz 3f
    cmpb (%rdi), %al
    jne 4f
    incq %rdi
    jmp 2b
3:  cmpb $'=', (%rdi)
    je found_option
4:  addq $OPTION_BYTES, %rbx
    cmpq %r12, %rbx
    jb try_option
    jmp bad_word

found_option:
    incq %rdi
    movq %rbx, %rcx
    leaq option_table(%rip), %rax
    subq %rax, %rcx
    shrq $2, %rcx                       // 32 bytes in the table, 8 bytes in O_...
    addq $O_FIRST, %rcx                 // where the value goes
    movl 4(%rbx), %esi
    testl %esi, %esi
    jnz word_value
    // `max` or a decimal number.
    movq 24(%rbx), %rax
    cmpw $('m' | 'a' << 8), (%rdi)
    jne 5f
    cmpb $'x', 2(%rdi)
    jne bad_word
    addq $3, %rdi
    jmp 7f
5:  xorl %eax, %eax
    movzbl (%rdi), %edx
    subl $'0', %edx
    cmpl $9, %edx
    ja bad_word
6:  movzbl (%rdi), %edx
    subl $'0', %edx
    cmpl $9, %edx
    ja 7f
    imulq $10, %rax, %rax
    jo bad_word
    addq %rdx, %rax
    js bad_word
    incq %rdi
    jmp 6b
7:  cmpq 16(%rbx), %rax
    jl bad_word
    cmpq 24(%rbx), %rax
    jg bad_word
store_value:
    // The value must end the word.
    movzbl (%rdi), %edx
    testb %dl, %dl
    jz 8f
    cmpb $' ', %dl
    jne bad_word
8:  movq %rax, (%rcx)
    movq %rdi, %r13
    jmp next_word
9:  ret

// The words of a list follow each other, each ended by a zero, the list by an empty one. The value is the position.
word_value:
    leaq image(%rip), %rax
    addq %rax, %rsi
    xorl %edx, %edx
1:  movq %rdi, %r8
2:  lodsb
    testb %al, %al
    jz 4f
    cmpb (%r8), %al
    jne 3f
    incq %r8
    jmp 2b
3:  lodsb                               // on to the next word of the list
    testb %al, %al
    jnz 3b
    incl %edx
    cmpb $0, (%rsi)
    jne 1b
    jmp bad_word
4:  movzbl (%r8), %eax                  // the whole word must have matched
    testb %al, %al
    jz 5f
    cmpb $' ', %al
    je 5f
    decq %rsi
    jmp 3b
5:  movq %r8, %rdi
    movl %edx, %eax
    jmp store_value

bad_word:
    call line_begin
    PUT s_error_option
    movl $40, %ecx
1:  movzbl (%r13), %eax
    cmpb $' ', %al
    jbe 2f
    stosb
    incq %r13
    decl %ecx
    jnz 1b
2:  jmp fatal_line

// What depends on other options.
options_check:
    // Idle by HLT needs a timer that wakes; the heartbeat promises 1 kHz. A vCPU that spins needs few interrupts.
    cmpq $0, O_TIMER
    jge 2f
    movq $1000, O_TIMER
    cmpq $IDLE_SPIN, O_IDLE
    jne 2f
    movq $100, O_TIMER
2:  cmpq $0, O_TIMER
    jne 3f
    movq $IDLE_SPIN, O_IDLE
3:  cmpq $PATTERN_SPARSE, O_PATTERN
    jne 4f
    movq $8, O_FILL
4:  cmpq $PATTERN_IDLE, O_PATTERN
    jne 5f
    movq $0, O_RATE
    movq $0, O_READS
5:  andq $~7, O_FILL
    ret
