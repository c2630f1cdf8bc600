#include "roles/proxy/budget.h"

static void term_look(struct budget *b, uint64_t now_ms)
{
    uint64_t age_ms = now_ms - b->since_ms;

    if (age_ms < BUDGET_TERM_MS)
        return;
    b->asked[1] = age_ms < 2 * BUDGET_TERM_MS ? b->asked[0] : 0;
    b->again[1] = age_ms < 2 * BUDGET_TERM_MS ? b->again[0] : 0;
    b->asked[0] = b->again[0] = 0;
    b->since_ms = now_ms;
}

void budget_asked(struct budget *b, uint64_t now_ms)
{
    term_look(b, now_ms);
    b->asked[0]++;
}

bool budget_again(struct budget *b, uint64_t now_ms)
{
    uint64_t asked, again;

    term_look(b, now_ms);
    asked = (uint64_t)b->asked[0] + b->asked[1];
    again = (uint64_t)b->again[0] + b->again[1];
    if (again >= BUDGET_RESERVE && again >= asked / BUDGET_PART)
        return false;
    b->again[0]++;
    return true;
}

bool budget_tells(struct budget *b, uint64_t now_ms)
{
    if (b->told_ms != 0 && now_ms - b->told_ms < BUDGET_TERM_MS)
        return false;
    b->told_ms = MAX(now_ms, 1u);
    return true;
}
