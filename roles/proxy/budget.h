/* roles/proxy/budget.h -- how often requests of one link may be asked again: for each ten that are asked a first time one more, over the
 * last minute or two, and a few at any rate. So whoever refuses because he has too much to do does not get twice as much.
 *
 * Owner: embedded, in whoever asks. */
#pragma once
#include "core/base.h"

#define BUDGET_PART    10  /* One in so many. */
#define BUDGET_RESERVE 100 /* Also on a link where little is asked. */
#define BUDGET_TERM_MS 60000

struct budget {        /* Zeroed: nothing was asked. Private. */
    uint64_t since_ms; /* When the present term began. */
    uint64_t told_ms;  /* When the operator was told last that it is used up; 0: never. */
    uint32_t asked[2]; /* In this term, and in the one before. */
    uint32_t again[2];
};

/* A first time. */
void budget_asked(struct budget *b, uint64_t now_ms);
/* Again? True: it is counted. */
MUST_CHECK bool budget_again(struct budget *b, uint64_t now_ms);
/* It said no: is the operator to be told? Once a term. */
MUST_CHECK bool budget_tells(struct budget *b, uint64_t now_ms);
