/* System V AMD64: rbx, rbp, r12 to r15 survive calls. */
    .text
    .globl context_switch
    .hidden context_switch
    .type context_switch, @function
    .p2align 4
context_switch:
    .cfi_startproc
    endbr64
    pushq %rbp
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset rbp, 0
    pushq %rbx
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset rbx, 0
    pushq %r12
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset r12, 0
    pushq %r13
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset r13, 0
    pushq %r14
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset r14, 0
    pushq %r15
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset r15, 0
    movq %rsp, (%rdi)
    movq %rsi, %rsp /* The other stack has the same layout, so the unwinder's view stays right. */
    popq %r15
    .cfi_adjust_cfa_offset -8
    .cfi_restore r15
    popq %r14
    .cfi_adjust_cfa_offset -8
    .cfi_restore r14
    popq %r13
    .cfi_adjust_cfa_offset -8
    .cfi_restore r13
    popq %r12
    .cfi_adjust_cfa_offset -8
    .cfi_restore r12
    popq %rbx
    .cfi_adjust_cfa_offset -8
    .cfi_restore rbx
    popq %rbp
    .cfi_adjust_cfa_offset -8
    .cfi_restore rbp
    movq %rdx, %rax
    ret
    .cfi_endproc
    .size context_switch, . - context_switch

/* context_init() left the entry in rbx; rax is the value. */
    .globl context_start
    .hidden context_start
    .type context_start, @function
    .p2align 4
context_start:
    .cfi_startproc
    .cfi_undefined rip
    movq %rax, %rdi
    callq *%rbx
    ud2
    .cfi_endproc
    .size context_start, . - context_start

    .section .note.GNU-stack, "", @progbits
