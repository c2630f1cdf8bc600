/* tests/unit/core/mail/mail_test.h -- what the tests of core/mail share. */
#pragma once
#include "core/base.h"
#include "core/writer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* Everything written, as a C string, in a buffer that the next call overwrites. */
static char written[1 << 20];

static inline struct writer test_writer(void)
{
    struct writer w;

    writer_fixed(&w, written, sizeof written - 1);
    return w;
}

static inline const char *test_written(struct writer *w)
{
    *w->at = '\0';
    return written;
}

#define assert_slice(s, text)                                                                                \
    do {                                                                                                     \
        struct slice assert_slice_ = (s);                                                                    \
        assert_int_equal(assert_slice_.size, strlen(text));                                                  \
        assert_memory_equal(assert_slice_.data, text, assert_slice_.size);                                   \
    } while (0)
