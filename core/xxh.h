/* core/xxh.h -- xxHash's XXH3 with the widest registers that the processor has: on x86 the library chooses them at its
 * first call, three times as fast as its default for a message. The results are the same. */
#pragma once
#define XXH_STATIC_LINKING_ONLY /* The size of a state. */
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif
