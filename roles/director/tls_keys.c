#include "roles/director/tls_keys.h"
#include "core/io.h"
#include "roles/words/cluster.h"

void tls_keys_step(struct tls_keys *k)
{
    uint8_t key[TLS_TICKET_KEY_SIZE];

    if (k->version > 0 && time_ms() < k->rotate_ms)
        return;
    random_bytes(key, sizeof key);
    tls_ticket_keys_add(&k->keys, key);
    bytes_wipe(key, sizeof key);
    k->rotate_ms = time_ms() + TLS_KEY_MS;
    k->version++;
}

void tls_keys_send(const struct tls_keys *k, struct link_stream *s, uint32_t *version_sent)
{
    struct link_frame *f;

    if (*version_sent == k->version || link_credit(s) <= 0)
        return;
    f = link_frame_new(CLUSTER_PIECE_HEADER + CLUSTER_TLS_KEYS_SIZE_MAX);
    memset(f->payload, 0, CLUSTER_PIECE_HEADER); /* CLUSTER_PIECE_TLS_KEYS */
    link_send(s, f,
              CLUSTER_PIECE_HEADER + cluster_tls_keys_encode(&k->keys, f->payload + CLUSTER_PIECE_HEADER), 0);
    *version_sent = k->version;
}
