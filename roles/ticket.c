#include "roles/ticket.h"
#include "roles/director/digest.h"

enum { /* Offsets. */
       AT_KEY_ID = 0,
       AT_SCOPE = 4,
       AT_GENERATION = 8,
       AT_MAC = 16,
       AT_RENEWAL = 32,
       AT_END = 48,
};
#define MAC_SIZE 16
_Static_assert(AT_END == TICKET_SIZE, "a ticket's size is the sum of its members");
_Static_assert(CLUSTER_KEY_SIZE == DIGEST_SIZE, "a key of HMAC-SHA256");

/* The node name's size keeps it apart from the user's name. */
static void ticket_mac(const uint8_t key[CLUSTER_KEY_SIZE], const struct ticket_claim *claim,
                       uint64_t fingerprint, uint8_t mac_out[MAC_SIZE])
{
    uint8_t front[18], digest[DIGEST_SIZE];
    const struct slice parts[] = {slice_of(front, sizeof front), claim->proxy, claim->user};

    front[0] = (uint8_t)claim->scope;
    front[1] = (uint8_t)claim->proxy.size;
    put_u64(front + 2, claim->generation);
    put_u64(front + 10, fingerprint);
    digest_hmac(key, parts, ARRAY_COUNT(parts), digest);
    memcpy(mac_out, digest, MAC_SIZE);
    bytes_wipe(digest, sizeof digest);
}

static bool mac_good(const uint8_t key[CLUSTER_KEY_SIZE], const struct ticket_claim *claim,
                     uint64_t fingerprint, const uint8_t mac[MAC_SIZE])
{
    uint8_t right[MAC_SIZE];

    ticket_mac(key, claim, fingerprint, right);
    return bytes_equal_secret(right, mac, MAC_SIZE);
}

void ticket_make(const struct ticket_claim *claim, const struct ticket_key *key,
                 const uint8_t renewal_key[CLUSTER_KEY_SIZE], struct ticket *out)
{
    memset(out, 0, sizeof *out);
    put_u32(out->bytes + AT_KEY_ID, key->id);
    out->bytes[AT_SCOPE] = (uint8_t)claim->scope;
    put_u64(out->bytes + AT_GENERATION, claim->generation);
    ticket_mac(key->key, claim, 0, out->bytes + AT_MAC); /* A backend knows no fingerprint. */
    ticket_mac(renewal_key, claim, claim->fingerprint, out->bytes + AT_RENEWAL);
}

void ticket_make_plain(uint64_t generation, struct ticket *out)
{
    memset(out, 0, sizeof *out);
    put_u64(out->bytes + AT_GENERATION, generation);
}

/* A session may do what a delivery may, not the other way round. */
static bool scope_allows(const struct ticket *t, enum ticket_scope scope)
{
    return t->bytes[AT_SCOPE] == scope || t->bytes[AT_SCOPE] == TICKET_SESSION;
}

enum ticket_verdict ticket_check(const struct ticket *t, const struct ticket_key *keys,
                                 enum ticket_scope scope, struct slice proxy, struct slice user)
{
    const struct ticket_claim claim = {.scope = t->bytes[AT_SCOPE],
                                       .generation = get_u64(t->bytes + AT_GENERATION),
                                       .proxy = proxy,
                                       .user = user};
    uint32_t id = get_u32(t->bytes + AT_KEY_ID);

    if (!scope_allows(t, scope))
        return TICKET_BAD;
    for (unsigned i = 0; i < 2; i++) {
        if (keys[i].id != 0 && keys[i].id == id)
            return mac_good(keys[i].key, &claim, 0, t->bytes + AT_MAC) ? TICKET_GOOD : TICKET_BAD;
    }
    return TICKET_EXPIRED;
}

uint64_t ticket_generation(const struct ticket *t)
{
    return get_u64(t->bytes + AT_GENERATION);
}

bool ticket_renewable(const struct ticket *t, const uint8_t renewal_key[CLUSTER_KEY_SIZE],
                      struct ticket_claim *claim)
{
    struct ticket_claim said = *claim;

    said.scope = t->bytes[AT_SCOPE];
    said.generation = get_u64(t->bytes + AT_GENERATION);
    if (!mac_good(renewal_key, &said, said.fingerprint, t->bytes + AT_RENEWAL))
        return false;
    *claim = said;
    return true;
}
