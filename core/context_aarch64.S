/* AAPCS64: x19 to x30 and the low halves of v8 to v15 survive calls. */
    .text
    .globl context_switch
    .hidden context_switch
    .type context_switch, %function
    .p2align 4
context_switch:
    .cfi_startproc
    sub sp, sp, #160
    .cfi_def_cfa_offset 160
    stp x29, x30, [sp, #0]
    .cfi_offset x29, -160
    .cfi_offset x30, -152
    stp x19, x20, [sp, #16]
    .cfi_offset x19, -144
    .cfi_offset x20, -136
    stp x21, x22, [sp, #32]
    .cfi_offset x21, -128
    .cfi_offset x22, -120
    stp x23, x24, [sp, #48]
    .cfi_offset x23, -112
    .cfi_offset x24, -104
    stp x25, x26, [sp, #64]
    .cfi_offset x25, -96
    .cfi_offset x26, -88
    stp x27, x28, [sp, #80]
    .cfi_offset x27, -80
    .cfi_offset x28, -72
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1 /* The other stack has the same layout, so the unwinder's view stays right. */
    ldp x29, x30, [sp, #0]
    ldp x19, x20, [sp, #16]
    ldp x21, x22, [sp, #32]
    ldp x23, x24, [sp, #48]
    ldp x25, x26, [sp, #64]
    ldp x27, x28, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    .cfi_def_cfa_offset 0
    mov x0, x2
    ret
    .cfi_endproc
    .size context_switch, . - context_switch

/* context_init() left the entry in x19; x0 is the value. */
    .globl context_start
    .hidden context_start
    .type context_start, %function
    .p2align 4
context_start:
    .cfi_startproc
    .cfi_undefined x30
    mov x29, #0
    blr x19
    brk #0
    .cfi_endproc
    .size context_start, . - context_start

    .section .note.GNU-stack, "", %progbits
