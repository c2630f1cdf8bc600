/* What stands on a wire of the link, as a broken or hostile node would send it: a header, a HELLO, a table, words of
 * membership. The first byte says which. What is understood is written again, and must be the same bytes. */
#include "net/link/header.h"
#include "roles/words/cluster.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_header(struct slice in)
{
    char out[LINK_HEADER_SIZE];
    struct link_header h;

    if (in.size < LINK_HEADER_SIZE || !link_header_decode(in.data, &h))
        return;
    link_header_encode(&h, out);
    ASSERT(memcmp(out, in.data, sizeof out) == 0);
}

/* A later version may say more behind what is known. */
static void try_hello(struct slice in)
{
    char out[LINK_HELLO_MAX];
    struct link_hello h;
    size_t size;

    if (!link_hello_decode(in, &h))
        return;
    size = link_hello_encode(&h, out);
    if (size > in.size) /* It does not say its features. */
        size -= sizeof h.node.features;
    ASSERT(size <= in.size && memcmp(out, in.data, size) == 0);
}

static void try_table(struct slice in)
{
    static struct cluster_table table;
    static char out[CLUSTER_TABLE_SIZE_MAX];
    static struct cluster_exceptions exceptions;
    struct tls_ticket_keys keys;

    if (in.size <= sizeof out && cluster_table_decode(in, &table))
        ASSERT(slice_eq(slice_of(out, cluster_table_encode(&table, out)), in));
    if (in.size <= CLUSTER_EXCEPTIONS_SIZE_MAX && cluster_exceptions_decode(in, &exceptions))
        ASSERT(slice_eq(slice_of(out, cluster_exceptions_encode(&exceptions, out)), in));
    if (cluster_tls_keys_decode(in, &keys))
        ASSERT(slice_eq(slice_of(out, cluster_tls_keys_encode(&keys, out)), in));
}

static void try_member(struct slice in)
{
    char out[MEMBER_SIZE_MAX];
    struct member_state state;
    struct member_grant grant;
    struct member_answer answer;

    if (member_state_decode(in, &state))
        ASSERT(slice_eq(slice_of(out, member_state_encode(&state, out)), in));
    if (member_grant_decode(in, &grant))
        ASSERT(slice_eq(slice_of(out, member_grant_encode(&grant, out)), in));
    if (member_answer_decode(in, &answer))
        ASSERT(slice_eq(slice_of(out, member_answer_encode(&answer, out)), in));
}

static void try_revoked(struct slice in)
{
    static char out[MEMBER_REVOKED_SIZE_MAX];
    static char placed_out[MEMBER_PLACED_SIZE_MAX];
    static struct member_revoked revoked;
    struct member_placed placed;

    if (member_revoked_decode(in, &revoked))
        ASSERT(slice_eq(slice_of(out, member_revoked_encode(&revoked, out)), in));
    if (in.size <= sizeof placed_out && member_placed_decode(in, &placed))
        ASSERT(slice_eq(slice_of(placed_out, member_placed_encode(&placed, placed_out)), in));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice in;

    if (size == 0)
        return 0;
    in = slice_of(data + 1, size - 1);
    switch (data[0] % 4) {
    case 0:
        try_header(in);
        break;
    case 1:
        try_hello(in);
        break;
    case 2:
        try_table(in);
        break;
    default:
        try_member(in);
        try_revoked(in);
    }
    return 0;
}
