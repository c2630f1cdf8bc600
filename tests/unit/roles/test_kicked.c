/* Sleepers whom the operator ends while there is no memory to wake them: their connections are closed all the same. */
#include "core/fiber.h"
#include "core/io.h"
#include "core/log.h"
#include "core/metrics.h"
#include "core/node.h"
#include "roles/proxy/control.h"
#include "roles/proxy/proxy.h"
#include "roles/proxy/session.h"
#include "roles/ticket.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/on_node.h"

#define SLEEPERS 6 /* u0, u1, u0 ... */

static int clients[SLEEPERS];

/* Without room for a session: so nobody can wake. */
static struct proxy *proxy_make(struct shard *s)
{
    struct proxy *p = heap_zalloc(s->heap, sizeof *p);

    p->shard = s;
    p->heap = s->heap;
    p->limits.login_timeout_ms = p->limits.session_idle_ms = p->limits.idle_keep_alive_ms = 3600000;
    p->route.alone = true;
    list_init(&p->session_list);
    list_init(&p->lmtp_list);
    users_init(&p->users, p->heap, NULL);
    subscriptions_init(&p->subscriptions, p);
    sleepers_init(&p->sleepers, p);
    revoked_init(p);
    s->slot[SLOT_PROXY] = p;
    return p;
}

static void sleepers_make(struct proxy *p)
{
    struct sock socks[SLEEPERS];

    clients_open(socks, clients, SLEEPERS);
    for (unsigned i = 0; i < SLEEPERS; i++) {
        struct packed packed = {.state = PACKED_COMMAND, .id = i, .conn.sock = socks[i]};

        ticket_make_plain(5, &packed.ticket);
        CHECK(sleepers_reserve(&p->sleepers));
        (void)sleepers_add(&p->sleepers, &packed,
                           users_get(&p->users, i % 2 == 0 ? SLICE("u0") : SLICE("u1"), 0),
                           time_ms() + 1800000);
    }
    p->connections = p->shard->metrics->connections = p->shard->metrics->sessions = SLEEPERS;
    p->shard->metrics->session_states[METRIC_SESSION_ASLEEP] = SLEEPERS;
}

/* How many clients have been closed of those who are `first`, `first` + 2 ... */
static unsigned closed(unsigned first)
{
    unsigned count = 0;
    char byte;

    for (unsigned i = first; i < SLEEPERS; i += 2)
        count += recv(clients[i], &byte, 1, MSG_DONTWAIT) == 0;
    return count;
}

static void await_closed(unsigned first, unsigned count)
{
    for (unsigned i = 0; i < 500 && closed(first) < count; i++)
        CHECK(fiber_sleep_ms(2) == 0);
    CHECK(closed(first) == count);
}

static void check_left(const struct proxy *p, unsigned count)
{
    const struct metrics *metrics = p->shard->metrics;

    CHECK(p->sleepers.records.count == count && p->connections == count);
    CHECK(metrics->connections == count && metrics->sessions == count);
    CHECK(metrics->session_states[METRIC_SESSION_ASLEEP] == count && metrics->kicked == SLEEPERS - count);
}

static void proxy_drop(struct proxy *p)
{
    for (unsigned i = 0; i < SLEEPERS; i++)
        close(clients[i]);
    revoked_fini(p);
    sleepers_fini(&p->sleepers);
    subscriptions_fini(&p->subscriptions);
    users_fini(&p->users);
    p->shard->slot[SLOT_PROXY] = NULL;
    heap_free(p->heap, p);
}

/* `kick u0`, then everybody. */
static void kick_body(struct shard *s)
{
    struct control_page *page = heap_zalloc(s->heap, sizeof *page);
    struct proxy *p = proxy_make(s);

    sleepers_make(p);
    page->kick = true;
    page->mask = SLICE("u0");
    sleepers_freeze(&p->sleepers); /* For another process: they are its own now. */
    proxy_control_sessions(page);
    CHECK(page->count == SLEEPERS / 2 && !page->more);
    check_left(p, SLEEPERS);
    sleepers_thaw(&p->sleepers);
    proxy_control_sessions(page);
    CHECK(page->count == SLEEPERS / 2 && !page->more);
    await_closed(0, SLEEPERS / 2);
    CHECK(closed(1) == 0);
    check_left(p, SLEEPERS / 2);
    page->mask = SLICE("");
    proxy_control_sessions(page);
    await_closed(1, SLEEPERS / 2);
    check_left(p, 0);
    heap_free(s->heap, page);
    proxy_drop(p);
}

/* First u0's tickets are revoked, then all that are so old. */
static void revoked_body(struct shard *s)
{
    struct revocations *revoked = heap_zalloc(s->heap, sizeof *revoked);
    struct proxy *p = proxy_make(s);

    sleepers_make(p);
    revocations_add(revoked, users_hash(&p->users, SLICE("u0")), 6);
    revoked_take_all(p, revoked);
    await_closed(0, SLEEPERS / 2);
    CHECK(closed(1) == 0);
    check_left(p, SLEEPERS / 2);
    revoked->generation = revoked->floor = 7;
    revoked_take_all(p, revoked);
    await_closed(1, SLEEPERS / 2);
    check_left(p, 0);
    heap_free(s->heap, revoked);
    proxy_drop(p);
}

static void test_kick(void **state)
{
    on_node(1, NULL, kick_body);
}

static void test_revoked(void **state)
{
    on_node(1, NULL, revoked_body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kick), cmocka_unit_test(test_revoked)};

    log_set_level((enum log_level)(LOG_ERROR + 1));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
