// The serial line (COM1, 16550) and putting lines together. Each port access is an exit to the VMM (35 us under
// kvm_pvm), so text goes out in strings as long as the transmit queue.

    .code64

serial_init:
    movl $0x3f9, %edx
    xorl %eax, %eax
    outb %al, %dx                       // no interrupts
    movl $0x3fb, %edx
    movb $0x83, %al
    outb %al, %dx                       // divisor: 115200
    movl $0x3f8, %edx
    movb $1, %al
    outb %al, %dx
    movl $0x3f9, %edx
    xorl %eax, %eax
    outb %al, %dx
    movl $0x3fb, %edx
    movb $3, %al
    outb %al, %dx                       // 8n1
    movl $0x3fa, %edx
    movb $1, %al
    outb %al, %dx                       // queues on, not emptied: a command may wait already
    movl $0x3fc, %edx
    movb $3, %al
    outb %al, %dx                       // DTR, RTS
    ret

// rdi = where a line is written to; the put routines advance it. They clobber rax, rcx, rdx and rsi.
line_begin:
    movl $LINE, %edi
    ret

// Ends the line at rdi and sends it.
line_end:
    movb $'\n', (%rdi)
    incq %rdi
    pushq %rbx
    pushq %rbp
    movl $LINE, %esi
    movq %rdi, %rbx
1:  call beat
    movabsq $1 << 33, %rbp              // a line that nobody takes for some seconds is given up, not the run
    addq %rax, %rbp
2:  movl $0x3fd, %edx
    inb %dx, %al
    testb $0x20, %al                    // transmit queue empty
    jnz 3f
    call beat
    cmpq %rbp, %rax
    jb 2b
    jmp 4f
3:  movq %rbx, %rcx
    subq %rsi, %rcx
    jz 4f
    movl $16, %eax
    cmpq %rax, %rcx
    cmovaq %rax, %rcx
    movl $0x3f8, %edx
    rep outsb
    jmp 1b
4:  popq %rbp
    popq %rbx
    ret

// The text at rsi, ended by a zero.
1:  stosb
put_string:
    lodsb
    testb %al, %al
    jnz 1b
    ret

// rax, decimal.
put_decimal:
    movl $10, %esi
    movq %rsp, %rcx
    subq $32, %rsp
1:  xorl %edx, %edx
    divq %rsi
    addb $'0', %dl
    decq %rcx
    movb %dl, (%rcx)
    testq %rax, %rax
    jnz 1b
    movq %rcx, %rsi
    leaq 32(%rsp), %rcx
    subq %rsi, %rcx
    rep movsb
    addq $32, %rsp
    ret

// rax, hexadecimal with 0x.
put_hex:
    movw $('0' | 'x' << 8), (%rdi)
    addq $2, %rdi
    bsrq %rax, %rcx
    jnz 1f
    xorl %ecx, %ecx
1:  andl $~3, %ecx                      // position of the first digit
2:  movq %rax, %rdx
    shrq %cl, %rdx
    andl $15, %edx
    leaq digits(%rip), %rsi
    movb (%rsi, %rdx), %dl
    movb %dl, (%rdi)
    incq %rdi
    subl $4, %ecx
    jns 2b
    ret

// Word number rax of the list at rsi (each ended by a zero).
put_word:
    testl %eax, %eax
    jz put_string
    movl %eax, %ecx
1:  lodsb
    testb %al, %al
    jnz 1b
    decl %ecx
    jnz 1b
    jmp put_string
