/* tests/unit/net/nonces.h -- that no key ever seals two records with one nonce: the linker puts nonces.c between the record layer
 * and the library's ciphers (meson.build, nonces_dep). And sessions whose keys it may see: as if a handshake had just ended.
 * Any thread. */
#pragma once
#include "net/tls_boring.h"

unsigned nonces_used(void);
/* Of them those that their key had sealed with before. */
unsigned nonces_repeated(void);

/* One end, packed, with keys that nobody has had, and the other. The size of the packed one. */
size_t tls_ends_make(unsigned suite, uint64_t read_sequence, uint64_t write_sequence,
                     uint8_t packed_out[TLS_PACKED_MAX], struct tls **peer_out);
