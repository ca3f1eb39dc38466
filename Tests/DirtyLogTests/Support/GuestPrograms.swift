/// The guest's programs: a few instructions of ring-3 long mode each, position-independent. Ring 3, because KVM without
/// hardware virtualisation runs only that at full speed (DESIGN section 12).

enum GuestProgram {
    /// Writes 8 bytes at random places, without end: in `rdi ... rdi + rsi + 7`, `rsi` being a power of two less 8.
    /// `r8` is the generator's state, `r9` counts the writes, `r10` counts down to the next exit at port `dx`.
    static let writeRandomly: [UInt8] = [
        0x4c, 0x89, 0xc0,  // again: mov rax, r8
        0x48, 0xc1, 0xe0, 0x0d,  // shl rax, 13
        0x49, 0x31, 0xc0,  // xor r8, rax
        0x4c, 0x89, 0xc0,  // mov rax, r8
        0x48, 0xc1, 0xe8, 0x07,  // shr rax, 7
        0x49, 0x31, 0xc0,  // xor r8, rax
        0x4c, 0x89, 0xc0,  // mov rax, r8
        0x48, 0xc1, 0xe0, 0x11,  // shl rax, 17
        0x49, 0x31, 0xc0,  // xor r8, rax
        0x4c, 0x89, 0xc0,  // mov rax, r8
        0x48, 0x21, 0xf0,  // and rax, rsi
        0x4c, 0x89, 0x04, 0x07,  // mov [rdi + rax], r8
        0x49, 0xff, 0xc1,  // inc r9
        0x49, 0xff, 0xca,  // dec r10
        0x75, 0xd0,  // jnz again
        0xee,  // out dx, al
        0xeb, 0xcd,  // jmp again
    ]

    /// Writes `r8`, `r8 + 1` ... to the `rcx` addresses that lie at `rsi`, then exits at port `dx`.
    static let writeList: [UInt8] = [
        0x48, 0x85, 0xc9,  // again: test rcx, rcx
        0x74, 0x15,  // jz done
        0x48, 0x8b, 0x06,  // mov rax, [rsi]
        0x4c, 0x89, 0x00,  // mov [rax], r8
        0x49, 0xff, 0xc0,  // inc r8
        0x49, 0xff, 0xc1,  // inc r9
        0x48, 0x83, 0xc6, 0x08,  // add rsi, 8
        0x48, 0xff, 0xc9,  // dec rcx
        0xeb, 0xe6,  // jmp again
        0xee,  // done: out dx, al
        0xeb, 0xe3,  // jmp again
    ]

    /// Reads 8 bytes at each of the `rcx` addresses that lie at `rsi`, then exits at port `dx`.
    static let readList: [UInt8] = [
        0x48, 0x85, 0xc9,  // again: test rcx, rcx
        0x74, 0x0f,  // jz done
        0x48, 0x8b, 0x06,  // mov rax, [rsi]
        0x4c, 0x8b, 0x18,  // mov r11, [rax]
        0x48, 0x83, 0xc6, 0x08,  // add rsi, 8
        0x48, 0xff, 0xc9,  // dec rcx
        0xeb, 0xec,  // jmp again
        0xee,  // done: out dx, al
        0xeb, 0xe9,  // jmp again
    ]
}
