#include "net/tls.h"

void tls_ticket_keys_add(struct tls_ticket_keys *k, const uint8_t key[TLS_TICKET_KEY_SIZE])
{
    uint8_t newest[TLS_TICKET_KEY_SIZE];
    unsigned at = 0;

    while (at < k->count && memcmp(k->keys[at], key, TLS_TICKET_KEY_SIZE) != 0)
        at++;
    memcpy(newest, key, sizeof newest); /* It may lie in k. */
    if (at == k->count && k->count < TLS_TICKET_KEYS_MAX)
        k->count++;
    at = MIN(at, TLS_TICKET_KEYS_MAX - 1);
    memmove(k->keys[1], k->keys[0], at * sizeof k->keys[0]);
    memcpy(k->keys[0], newest, sizeof newest);
    bytes_wipe(newest, sizeof newest);
}
