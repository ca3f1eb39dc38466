// What an owned page holds, and how it is checked and rewritten.
//
//   word 0        "SELF" in the upper half, the page's number in the lower; 0 in a page that was never written
//   word 1        the stamp: a generation in the lower half, a checksum in the upper
//   word 2..511   content
//
// The sum of a page is the sum over all 512 words of word * weight, modulo 2^64, where the checksum itself counts as
// zero. The weights are odd and differ, so that any change of one word changes the sum, and changing words costs one
// multiplication each. The checksum in the page is the sum's halves combined.
//
// For each page the guest keeps an expectation of 16 bytes elsewhere: the sum, the generation, and a guard over both and
// the page's number. An old page that agrees with itself is therefore noticed as stale, and damage to the expectations
// is told apart from damage to pages.
//
// Registers throughout: rbx = page number, r12 = the page, r13 = its expectation.

    .code64

#define NUMBER_MAGIC 0x464c4553

// The weights: odd, from a multiplicative generator.
weights_init:
    movl $WEIGHTS, %edi
    movl $512, %ecx
    movabsq $GOLDEN, %rdx
    movq %rdx, %rax
1:  imulq %rdx, %rax
    addq %rdx, %rax
    movq %rax, %rsi
    shrq $29, %rsi
    xorq %rax, %rsi
    orq $1, %rsi
    movq %rsi, (%rdi)
    addq $8, %rdi
    decl %ecx
    jnz 1b
    ret

// r12, r13 from rbx.
page_locate:
    movabsq $OWNED, %r12
    movq %rbx, %rax
    shlq $12, %rax
    addq %rax, %r12
    movq %rbx, %r13
    shlq $4, %r13
    addq G_ENTRIES, %r13
    ret

// rax = the sum of the page at r12. Clobbers rcx, rdx, rdi, r8 to r11.
page_sum:
    leaq PAGE_SIZE(%r12), %rsi
    movl $WEIGHTS + PAGE_SIZE, %edi
    movq $-PAGE_SIZE, %rcx
    xorl %eax, %eax
    xorl %edx, %edx
1:
    .irp n, 0, 16, 32, 48
    movq \n(%rsi, %rcx), %r8
    imulq \n(%rdi, %rcx), %r8
    movq \n + 8(%rsi, %rcx), %r9
    imulq \n + 8(%rdi, %rcx), %r9
    addq %r8, %rax
    addq %r9, %rdx
    .endr
    addq $64, %rcx
    jnz 1b
    addq %rdx, %rax
    // The checksum does not count.
    movq 8(%r12), %rdx
    movl %edx, %ecx
    subq %rcx, %rdx
    imulq WEIGHTS + 8, %rdx
    subq %rdx, %rax
    ret

// rax = the stamp for sum r8 and generation r10d. A page never written has stamp 0.
stamp:
    movq %r8, %rax
    shrq $32, %rax
    xorl %r8d, %eax
    shlq $32, %rax
    movl %r10d, %ecx
    orq %rcx, %rax
    testl %r10d, %r10d
    jnz 1f
    xorl %eax, %eax
1:  ret

// eax = the guard for sum r8, generation r10d and page rbx. Clobbers rdx.
guard:
    movl %r10d, %eax
    shlq $32, %rax
    xorq %rbx, %rax
    xorq %r8, %rax
    incq %rax
    movabsq $GOLDEN, %rdx
    imulq %rdx, %rax
    shrq $32, %rax
    ret

// rax = word 0 of page rbx at generation r10d. Clobbers rdx.
number_word:
    xorl %eax, %eax
    testl %r10d, %r10d
    jz 1f
    movabsq $NUMBER_MAGIC << 32, %rax
    movl %ebx, %edx
    orq %rdx, %rax
1:  ret

// Notes sum r8 and generation r10d as the expectation at r13.
expect:
    call guard
    movq %r8, (%r13)
    movl %r10d, 8(%r13)
    movl %eax, 12(%r13)
    ret

// Checks page rbx in full; check_head looks at number and stamp only. eax = 0 if it is right. A wrong page is recorded
// and gets new content, so that it is reported once. r12 and r13 are set.
page_check:
    cmpq $CHECK_FULL, O_CHECK
    jne check_head
check_full:
    incq SELFTEST_VCPU_OFFSET_PAGES_VERIFIED(%r14)
    call page_locate
    call page_sum
    movq %rax, %r11                     // r11 = sum found
    movq (%r13), %r8
    movl 8(%r13), %r10d
    call guard
    cmpl 12(%r13), %eax
    jne check_wrong
    cmpq %r8, %r11
    jne check_wrong
    jmp check_rest
check_head:
    incq SELFTEST_VCPU_OFFSET_PAGES_VERIFIED(%r14)
    call page_locate
    movq (%r13), %r8
    movl 8(%r13), %r10d
    call guard
    cmpl 12(%r13), %eax
    jne check_wrong_head
check_rest:
    call number_word
    cmpq (%r12), %rax
    jne check_wrong_head
    call stamp
    cmpq 8(%r12), %rax
    jne check_wrong_head
    xorl %eax, %eax
    ret
check_wrong_head:
    call page_sum
    movq %rax, %r11
check_wrong:
    call record_bad
    // New content, one generation on.
    movl 8(%r13), %r10d
    incl %r10d
    jnz 1f
    incl %r10d
1:  call page_fill
    movl $1, %eax
    ret

// Records what is wrong with page rbx; r11 = the sum of what was found. Records that vCPU 0 has not printed yet are not
// overwritten; the page is counted in any case. rsi = the record.
record_bad:
    incq SELFTEST_VCPU_OFFSET_ERRORS(%r14)
    incq C_HELD_BAD(%r15)
    movq C_BAD_COUNT(%r15), %rax
    movq %rax, %rdx
    subq C_BAD_PRINTED(%r15), %rdx
    cmpq $BAD_MAX, %rdx
    jae 9f
    andl $BAD_MAX - 1, %eax
    imull $BAD_BYTES, %eax, %eax
    leaq C_BAD_RECORDS(%r15, %rax), %rsi
    movq %rbx, BAD_PAGE(%rsi)
    movq (%r13), %r8
    movl 8(%r13), %r10d
    movq %r8, BAD_SUM_EXP(%rsi)
    movq %r11, BAD_SUM(%rsi)
    movl %r10d, BAD_GEN_EXP(%rsi)
    call number_word
    movq %rax, BAD_NUMBER_EXP(%rsi)
    call stamp
    movq %rax, BAD_STAMP_EXP(%rsi)
    movq (%r12), %rax
    movq %rax, BAD_NUMBER(%rsi)
    movq 8(%r12), %rax
    movq %rax, BAD_STAMP(%rsi)
    movl %eax, BAD_GEN(%rsi)
    movq %rax, %r9                      // r9 = stamp found
    TSC64
    movq %rax, BAD_TSC(%rsi)
    // What kind of wrong?
    movl $KIND_EXPECTATION, %edi
    call guard
    cmpl 12(%r13), %eax
    jne 8f
    movl $KIND_ZERO, %edi
    movq %r11, %rax
    orq (%r12), %rax
    orq %r9, %rax
    jz 8f
    movl $KIND_CORRUPT, %edi
    movq %r11, %r8
    movl %r9d, %r10d
    call stamp
    cmpq %r9, %rax
    jne 8f
    movl BAD_NUMBER + 4(%rsi), %eax
    cmpl $NUMBER_MAGIC, %eax
    jne 8f
    movl $KIND_OTHER, %edi
    cmpl %ebx, BAD_NUMBER(%rsi)
    jne 8f
    movl $KIND_STALE, %edi
    cmpl BAD_GEN_EXP(%rsi), %r9d
    jb 8f
    movl $KIND_FUTURE, %edi
    ja 8f
    movl $KIND_DIFFERENT, %edi
8:  movq %rdi, BAD_KIND(%rsi)
    incq C_BAD_COUNT(%r15)
9:  ret

// Writes all of page rbx with new content at generation r10d. Each page starts its own generator, so that no two pages
// and no two generations of a page are alike.
page_fill:
    leaq 1(%rbx), %r9
    movabsq $GOLDEN, %rax
    imulq %rax, %r9
    addq O_SEED, %r9
    movl %r10d, %edx
    addq %rdx, %r9
    imulq %rax, %r9
    btsq $0, %r9                        // r9 = generator, never zero
    call number_word
    movq %rax, (%r12)
    imulq WEIGHTS, %rax
    movq %rax, %r8
    movl %r10d, %eax
    imulq WEIGHTS + 8, %rax
    addq %rax, %r8                      // r8 = sum
    cmpq $CONTENT_ZERO, O_CONTENT
    je 5f
    movl $2, %ecx
    leaq text(%rip), %rdi
1:  movq %r9, %rax
    shlq $13, %rax
    xorq %rax, %r9
    movq %r9, %rax
    shrq $7, %rax
    xorq %rax, %r9
    movq %r9, %rax
    shlq $17, %rax
    xorq %rax, %r9
    movq %r9, %rax
    cmpq $CONTENT_TEXT, O_CONTENT
    jne 2f
    shrq $32, %rax
    andl $63, %eax
    movq (%rdi, %rax, 8), %rax
2:  movq %rax, (%r12, %rcx, 8)
    imulq WEIGHTS(, %rcx, 8), %rax
    addq %rax, %r8
    incl %ecx
    cmpl $512, %ecx
    jb 1b
    jmp 6f
5:  leaq 16(%r12), %rdi
    movl $510, %ecx
    xorl %eax, %eax
    rep stosq
6:  call stamp
    movq %rax, 8(%r12)
    jmp expect

// Rewrites page rbx: the next generation, and fill= bytes of it, the stamp included. Needs r12 and r13. Where the bytes
// lie moves with the generation.
page_rewrite:
    movq (%r13), %r8                    // r8 = sum
    movl 8(%r13), %r9d
    movl %r9d, %r10d
    incl %r10d
    jz 9f                               // after 2^32 rewrites: stay
    testl %r9d, %r9d
    jnz 1f
    call number_word                    // the first write
    movq %rax, (%r12)
    imulq WEIGHTS, %rax
    addq %rax, %r8
1:  addq WEIGHTS + 8, %r8               // generation + 1
    movq O_FILL, %rsi
    shrq $3, %rsi
    decq %rsi                           // rsi = words of content
    jz 6f
    movl $510, %eax
    cmpq %rax, %rsi
    cmovaq %rax, %rsi
    // First word: 2 + (generation * words) mod (511 - words).
    movl %r10d, %eax
    imulq %rsi, %rax
    xorl %edx, %edx
    movl $511, %ecx
    subl %esi, %ecx
    divq %rcx
    leaq 2(%rdx), %rdi
    leaq text(%rip), %r11
2:  RANDOM %rax, %rdx
    cmpq $CONTENT_RANDOM, O_CONTENT
    je 4f
    cmpq $CONTENT_TEXT, O_CONTENT
    je 3f
    xorl %eax, %eax
    jmp 4f
3:  shrq $32, %rax
    andl $63, %eax
    movq (%r11, %rax, 8), %rax
4:  movq %rax, %rdx
    subq (%r12, %rdi, 8), %rdx
    movq %rax, (%r12, %rdi, 8)
    imulq WEIGHTS(, %rdi, 8), %rdx
    addq %rdx, %r8
    incl %edi
    decl %esi
    jnz 2b
6:  call stamp
    movq %rax, 8(%r12)
    call expect
9:  incq SELFTEST_VCPU_OFFSET_PAGES_WRITTEN(%r14)
    ret

// Initialises this vCPU's slice: content in the first C_INIT pages. The others stay untouched (they are holes in the
// host's memory until they are written) and must read as zeros. Firmware may have left traces just below the end of the
// low memory, so there they are cleared.
pages_init:
    movq C_FIRST(%r15), %rbx
    movq C_INIT(%r15), %rbp
    testq %rbp, %rbp
    jz 2f
1:  call page_locate
    movl $1, %r10d
    call page_fill
    incq %rbx
    decq %rbp
    jnz 1b
2:  movq C_COUNT(%r15), %rbp
    subq C_INIT(%r15), %rbp
    jz 9f
3:  call page_locate
    call page_address
    movq G_HEAP, %rdx
    subq %rax, %rdx
    jbe 4f                              // above the low memory
    cmpq $16 << 20, %rdx
    ja 4f
    movq %r12, %rdi
    movl $512, %ecx
    xorl %eax, %eax
    rep stosq
4:  xorl %r8d, %r8d
    xorl %r10d, %r10d
    call expect
    incq %rbx
    decq %rbp
    jnz 3b
9:  ret
