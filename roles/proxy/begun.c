#include "roles/proxy/begun.h"
#include "core/metrics.h"
#include "net/sasl.h"
#include "roles/proxy/session.h"

/* Beside what is kept: what a sleeper would not have. */
#define AWAKE_SIZE (sizeof(struct session) + 256)

static size_t size_of(const struct session *s)
{
    size_t kept = conn_held(&s->conn) + (s->sasl != NULL ? sizeof *s->sasl : 0);
    bool counts = s->user_size == 0 && (s->state == SESSION_PROXY_HEADER || s->state == SESSION_COMMAND ||
                                        s->state == SESSION_SASL || s->state == SESSION_DELAY);

    return counts && kept > 0 ? AWAKE_SIZE + kept : 0;
}

/* False: there is no other. */
static bool oldest_goes(const struct begun *b, const struct session *but)
{
    struct list *oldest = b->first.next;

    if (oldest == &but->begun)
        oldest = oldest->next;
    if (oldest == &b->first)
        return false;
    shard_self()->metrics->begun_cut++;
    session_cut(CONTAINER_OF(oldest, struct session, begun), "begun_gave_way");
    return true;
}

void session_begun_over(struct session *s)
{
    struct begun *b = &s->proxy->begun;

    if (s->begun_size == 0)
        return;
    b->bytes -= s->begun_size;
    s->begun_size = 0;
    list_remove(&s->begun);
}

void session_begun_less(struct session *s)
{
    struct begun *b = &s->proxy->begun;
    size_t size = size_of(s);

    if (size == 0) {
        session_begun_over(s);
        return;
    }
    if (s->begun_size == 0)
        list_push_back(&b->first, &s->begun);
    b->bytes = b->bytes - s->begun_size + size;
    s->begun_size = (uint32_t)size;
}

void session_begun(struct session *s)
{
    struct begun *b = &s->proxy->begun;

    session_begun_less(s);
    while (s->begun_size > 0 && b->bytes > b->bytes_max && oldest_goes(b, s))
        ;
}

void begun_init(struct begun *b, unsigned shard_count)
{
    *b = (struct begun){.bytes_max = MAX(BEGUN_BYTES_MAX / shard_count, BEGUN_SHARE_MIN)};
    list_init(&b->first);
}
