/* core/context.h -- the switch between stacks: context_x86_64.S, context_aarch64.S.
 * It keeps what the platform's ABI calls callee-saved, apart from the floating-point control words, which
 * nothing here changes. */
#pragma once

/* Saves the running context, its stack pointer to *sp_out, and resumes the one at `sp`, whose own call of
 * context_switch() then returns `value`. */
void *context_switch(void **sp_out, void *sp, void *value);

/* Where a new context begins: calls entry(value), which never returns. */
void context_start(void);

/* A new context on the stack that ends at stack_top (16-byte aligned): what context_switch() takes as `sp`. */
void *context_init(void *stack_top, void (*entry)(void *value));
