/* Whatever BoringSSL allocates comes from here: private keys, handshakes, clients' sessions. The library asks for these three by name, if
 * the program has them. */
#include "core/secret.h"
#include <openssl/mem.h>

#define FOR_THE_LIBRARY __attribute__((visibility("default"), used))

FOR_THE_LIBRARY void *OPENSSL_memory_alloc(size_t size);
FOR_THE_LIBRARY void OPENSSL_memory_free(void *p);
FOR_THE_LIBRARY size_t OPENSSL_memory_get_size(void *p);

void *OPENSSL_memory_alloc(size_t size)
{
    return secret_alloc(size);
}

void OPENSSL_memory_free(void *p)
{
    secret_free(p);
}

size_t OPENSSL_memory_get_size(void *p)
{
    return secret_size(p);
}
