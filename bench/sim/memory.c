/* bench/sim/memory.c -- where the bytes of this process are: each node's heap (its secret pages apart), its fibers' stacks, the
 * simulator's network and disks, all else that was allocated (clients' TLS, mostly), the program itself; and whether that is
 * what the kernel says. */
#include "bench/sim/sessions.h"
#include "core/fiber.h"
#include "core/scheduler_state.h"
#include "roles/proxy/proxy.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define SAMPLES 10000

#ifdef TRIREME_JEMALLOC
#include <jemalloc/jemalloc.h>

static uint64_t statistic(const char *name)
{
    size_t value = 0, size = sizeof value;

    mallctl(name, &value, &size, NULL, 0);
    return value;
}

/* All arenas that are no node's heap: `heaps` is those'. */
static void others_measure(uint64_t heaps_used, uint64_t heaps_resident, struct memory *m)
{
    uint64_t epoch = 1;
    size_t size = sizeof epoch;
    char purge[32];

    mallctl("thread.tcache.flush", NULL, NULL, NULL, 0);
    snprintf(purge, sizeof purge, "arena.%u.purge", (unsigned)MALLCTL_ARENAS_ALL);
    mallctl(purge, NULL, NULL, NULL, 0);
    mallctl("epoch", &epoch, &size, &epoch, sizeof epoch);
    m->other = statistic("stats.allocated") - heaps_used - m->network - m->disks;
    m->other_slack = statistic("stats.resident") - heaps_resident - m->other - m->network - m->disks;
}
#else
static void others_measure(uint64_t heaps_used, uint64_t heaps_resident, struct memory *m)
{
    (void)heaps_used, (void)heaps_resident, (void)m;
}
#endif

/* Pages of files, and the stack that the program began with; and all of it. */
static void mappings_measure(struct memory *m)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    bool program = false;

    ASSERT(f != NULL);
    while (fgets(line, sizeof line, f) != NULL) {
        unsigned long kib;

        if (line[0] < 'A' || line[0] > 'Z')
            program = strchr(line, '/') != NULL || strchr(line, '[') != NULL;
        else if (sscanf(line, "Rss: %lu", &kib) == 1) {
            m->rss += kib * 1024;
            m->program += program ? kib * 1024 : 0;
        }
    }
    fclose(f);
}

static uint64_t stacks_measure(const struct shard *s)
{
    const struct fiber_pool *p = &s->scheduler->pool;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = (size_t)FIBER_COUNT_MAX * FIBER_STACK_PITCH;
    unsigned char *there = malloc(bytes / page);
    uint64_t sum = 0;

    ASSERT(there != NULL);
    if (mincore(p->mapping, bytes, there) == 0)
        for (size_t i = 0; i < bytes / page; i++)
            sum += (there[i] & 1) * page;
    free(there);
    return sum;
}

/* Of the records without what their size classes round up, and of TLS in them: by a sample. */
static void records_sample(const struct sleepers *t, struct memory *m)
{
    uint64_t count = 0, packed_size = 0, tls_size = 0;
    uint32_t step = records_end(&t->records) / SAMPLES + 1;

    for (uint32_t at = 0; at < records_end(&t->records); at += step) {
        uint32_t id = sleepers_next(t, at);
        char bytes[PACKED_SIZE_MAX];
        struct packed p;
        struct packed_shared shared = {&t->proxy->process, p.token.history, &p.ticket, 0};

        if (id == RECORD_NONE)
            break;
        sleepers_look(t, id, &p);
        shared.partition = p.partition;
        packed_size += packed_encode(&p, shared, bytes);
        tls_size += p.conn.tls_size + 1u;
        count++;
        bytes_wipe(&p, sizeof p);
        bytes_wipe(bytes, sizeof bytes);
    }
    count = MAX(count, 1u);
    m->record_tls = t->records.count * tls_size / count;
    m->record_used = t->records.count * (packed_size / count + SLEEPER_HEAD_SIZE) - m->record_tls;
}

static void proxy_measure(const struct proxy *p, struct memory *m)
{
    const struct sleepers *t = &p->sleepers;
    const struct records *users = &p->users.records;

    m->records = t->records.bytes;
    m->record_slack = (uint64_t)t->records.region_count * RECORDS_REGION_SIZE - t->records.bytes;
    m->users = users->bytes;
    m->user_slack = (uint64_t)users->region_count * RECORDS_REGION_SIZE - users->bytes;
    m->user_table = users_table_size(&p->users);
    records_sample(t, m);
}

void memory_measure(struct sessions *b, struct memory *out)
{
    uint64_t used = 0, resident = 0;
    struct sim_memory simulated;

    *out = (struct memory){0};
    sim_memory(b->world, &simulated);
    out->network = simulated.network;
    out->disks = simulated.disks;
    for (unsigned r = 0; r < PART_COUNT; r++) {
        struct heap_memory h;

        heap_memory(b->shards[r]->heap, &h);
        out->heaps[r] = h.used;
        out->resident[r] = h.resident + h.secrets_resident;
        out->stacks[r] = stacks_measure(b->shards[r]);
        used += h.used - h.secrets;
        resident += h.resident;
        out->sum += out->resident[r] + out->stacks[r];
    }
    others_measure(used, resident, out);
    mappings_measure(out);
    proxy_measure(b->shards[PROXY]->slot[SLOT_PROXY], out);
    out->sum += out->network + out->disks + out->other + out->other_slack + out->program;
    sim_call(b->shards[BACKEND], memory_store_measure, out);
}
