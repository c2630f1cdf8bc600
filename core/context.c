#include "core/context.h"
#include "core/base.h"

/* The frame that context_switch() pops, as the assembly lays it out. */
#if defined(__x86_64__)
enum { FRAME_WORDS = 9, FRAME_ENTRY = 4, FRAME_RETURN = 6 }; /* r15 to r12, rbx, rbp, return; alignment. */
#elif defined(__aarch64__)
enum { FRAME_WORDS = 20, FRAME_ENTRY = 2, FRAME_RETURN = 1 }; /* x29 x30 x19 ... d15. */
#else
#error "no context switch for this processor"
#endif

void *context_init(void *stack_top, void (*entry)(void *value))
{
    uintptr_t *frame = (uintptr_t *)stack_top - FRAME_WORDS;

    ASSERT(((uintptr_t)stack_top & 15) == 0);
    memset(frame, 0, FRAME_WORDS * sizeof *frame);
    frame[FRAME_ENTRY] = (uintptr_t)entry;
    frame[FRAME_RETURN] = (uintptr_t)context_start;
    return frame;
}
