/* core/secret.h -- malloc for a library that keeps keys: memory that is in no core dump, overwritten when it is freed. Our
 * own keys are in slabs of their own, between pages that nobody can touch: heap_try_map_secret().
 *
 * Owner:  whoever asks, on any thread; each thread allocates from a jemalloc arena of its own, so none waits for another, and what it
 *         has is free for its later calls. Any thread may free.
 * Memory: in no heap's budget. Sanitized builds have no jemalloc: there it is malloc, and is in dumps. */
#pragma once
#include "core/base.h"

/* NULL: no memory. size 0 gives a valid pointer. */
MUST_CHECK void *secret_alloc(size_t size);
void secret_free(void *p); /* NULL is allowed. */
/* What is there, at least what was asked for. */
size_t secret_size(const void *p);
