// Which memory the guest owns: whole 2 MiB pages of RAM from the boot loader's memory map, above the heap. They are
// mapped one behind the other at OWNED, so that page number n needs no table to be found. The guest physical address of
// a page stands in the page directory.

    .code64

// rdi = first, rsi = end of the usable part of memory map entry rcx above address rdx, in whole large pages; rsi <= rdi
// if there is none. Uses rax.
map_entry:
    imulq $24, %rcx, %rax
    addq $MEMORY_MAP, %rax
    xorl %edi, %edi
    xorl %esi, %esi
    cmpl $1, 16(%rax)                   // RAM
    jne 1f
    movq (%rax), %rdi
    movq 8(%rax), %rsi
    addq %rdi, %rsi
    cmpq %rdx, %rdi
    cmovbq %rdx, %rdi
    addq $LARGE_PAGE - 1, %rdi
    andq $-LARGE_PAGE, %rdi
    andq $-LARGE_PAGE, %rsi
1:  ret

// Chooses owned memory, maps it, and lays out the heap.
memory_own:
    // How many pages there could be: an upper bound, from which the heap's size follows.
    xorl %ebx, %ebx
    xorl %ecx, %ecx
    movl $HEAP_START, %edx
1:  call map_entry
    subq %rdi, %rsi
    jbe 2f
    addq %rsi, %rbx
2:  incq %rcx
    cmpq G_MAP_COUNT, %rcx
    jb 1b
    shrq $12, %rbx
    movq O_MEMORY, %rax
    shlq $8, %rax
    jz 3f
    addq $511, %rax                     // whole large pages
    andq $-512, %rax
    cmpq %rax, %rbx
    cmovaq %rax, %rbx
3:  // rbx = pages. Directories: one page a GiB. Then the expectations, 16 bytes a page.
    movq %rbx, %r12
    addq $0x3ffff, %r12
    shrq $18, %r12
    shlq $12, %r12
    movl $HEAP_START, %eax
    addq %rax, %r12
    movq %r12, G_ENTRIES
    movq %rbx, %rax
    shlq $4, %rax
    addq %rax, %r12
    // The heap must lie in the entry that holds the image, and in the first GiB. r13 = that entry's end.
    xorl %ecx, %ecx
    xorl %r13d, %r13d
4:  imulq $24, %rcx, %rax
    cmpl $1, MEMORY_MAP + 16(%rax)
    jne 5f
    movq MEMORY_MAP(%rax), %rdx
    cmpq $SELFTEST_LOAD_ADDRESS, %rdx
    ja 5f
    addq MEMORY_MAP + 8(%rax), %rdx
    cmpq $HEAP_START, %rdx
    cmovaq %rdx, %r13
5:  incq %rcx
    cmpq G_MAP_COUNT, %rcx
    jb 4b
    movq %r13, G_HEAP                   // where firmware may have left traces (pages_init)
    movl $0x40000000, %eax
    cmpq %rax, %r13
    cmovaq %rax, %r13
    cmpq %r13, %r12
    ja memory_short
    // The heap is cleared: firmware may have used it.
    movl $HEAP_START, %edi
    movq %r12, %rcx
    subq %rdi, %rcx
    shrq $3, %rcx
    xorl %eax, %eax
    rep stosq
    // Map large pages until enough are owned. r8 = large pages mapped, r9 = wanted.
    movq %rbx, %r9
    shrq $9, %r9
    xorl %r8d, %r8d
    xorl %ecx, %ecx
6:  movq %r12, %rdx
    call map_entry
7:  cmpq %r9, %r8
    jae 9f
    cmpq %rsi, %rdi
    jae 8f
    leaq PT_LARGE(%rdi), %rax
    movq %rax, HEAP_START(, %r8, 8)     // directories follow each other
    incq %r8
    addq $LARGE_PAGE, %rdi
    jmp 7b
8:  incq %rcx
    cmpq G_MAP_COUNT, %rcx
    jb 6b
9:  movq %r8, %rax
    shlq $9, %rax
    movq %rax, G_PAGES
    movq %rax, SELFTEST_SHARED_ADDRESS + SELFTEST_SHARED_OFFSET_OWNED_PAGES
    testq %rax, %rax
    jz memory_short
    cmpq $0, O_MEMORY                   // asked for by number: must be there
    je 10f
    cmpq %r9, %r8
    jb memory_short
    movq O_MEMORY, %rcx
    shlq $8, %rcx
    cmpq %rbx, %rcx
    ja memory_short
10: // Hook up the directories, once they are filled: r8 large pages, 512 a directory.
    addq $511, %r8
    shrq $9, %r8
    movl $HEAP_START + PT_TABLE, %eax
    movl $PDPT_OWNED, %edi
11: stosq
    addq $PAGE_SIZE, %rax
    decq %r8
    jnz 11b
    ret

memory_short:
    call line_begin
    PUT s_error_memory
    movq G_PAGES, %rax
    shrq $8, %rax
    call put_decimal
    jmp fatal_line

// rax = guest physical address of page rbx.
page_address:
    movq %rbx, %rax
    shrq $9, %rax
    movq HEAP_START(, %rax, 8), %rax
    andq $-LARGE_PAGE, %rax
    movl %ebx, %edx
    andl $511, %edx
    shll $12, %edx
    addq %rdx, %rax
    ret
