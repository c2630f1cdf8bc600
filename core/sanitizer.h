/* core/sanitizer.h -- tells AddressSanitizer and ThreadSanitizer which stack runs; nothing without them. */
#pragma once
#include "core/base.h"

#if defined(__SANITIZE_ADDRESS__)
#define HAVE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAVE_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define HAVE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HAVE_TSAN 1
#endif
#endif

#ifdef HAVE_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define asan_poison(p, size)                  __asan_poison_memory_region((p), (size))
#define asan_unpoison(p, size)                __asan_unpoison_memory_region((p), (size))
#define asan_switch_start(fake, bottom, size) __sanitizer_start_switch_fiber((fake), (bottom), (size))
#define asan_switch_finish(fake, bottom_out, size_out)                                                       \
    __sanitizer_finish_switch_fiber((fake), (bottom_out), (size_out))
#else
#define asan_poison(p, size)                           ((void)(p), (void)(size))
#define asan_unpoison(p, size)                         ((void)(p), (void)(size))
#define asan_switch_start(fake, bottom, size)          ((void)0)
#define asan_switch_finish(fake, bottom_out, size_out) ((void)0)
#endif

#ifdef HAVE_TSAN
#include <sanitizer/tsan_interface.h>
#define tsan_fiber_current()    __tsan_get_current_fiber()
#define tsan_fiber_create()     __tsan_create_fiber(0)
#define tsan_fiber_destroy(f)   __tsan_destroy_fiber(f)
#define tsan_fiber_switch_to(f) __tsan_switch_to_fiber((f), 0)
#define tsan_acquire(p)         __tsan_acquire(p)
#define tsan_release(p)         __tsan_release(p)
/* A function that reads what another thread may be writing, and says why it may. */
#define TSAN_RACES __attribute__((no_sanitize("thread"), noinline))
#else
#define TSAN_RACES
#define tsan_fiber_current()    NULL
#define tsan_fiber_create()     NULL
#define tsan_fiber_destroy(f)   ((void)(f))
#define tsan_fiber_switch_to(f) ((void)(f))
#define tsan_acquire(p)         ((void)(p))
#define tsan_release(p)         ((void)(p))
#endif

#if defined(HAVE_ASAN) || defined(HAVE_TSAN)
#define SANITIZER_STACK_FACTOR 4 /* Red zones and unshared slots make every frame larger. */
#else
#define SANITIZER_STACK_FACTOR 1
#endif
