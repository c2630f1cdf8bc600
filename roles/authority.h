/* roles/authority.h -- who signs the certificates of a cluster's nodes (`cluster.ca`), and what is signed: a node's name as CN
 * and an OU for each of its roles, as net/link/wire.h checks them. ECDSA P-256; all in memory, as PEM.
 * Blocks, and needs a deep stack: for an operator's command, not for a shard.
 * Memory: authority_fini() also of one that is all zero; struct authority_pem holds a secret where it holds a key: whoever has it wipes it. */
#pragma once
#include "core/base.h"

#define AUTHORITY_PEM_MAX   4096
#define AUTHORITY_NAME_MAX  63 /* Also of a label of DNS; a CN may have 64. */
#define AUTHORITY_DAYS      7300
#define AUTHORITY_NODE_DAYS 3650

struct authority { /* The library's. */
    struct x509_st *cert;
    struct evp_pkey_st *key;
};

struct authority_pem {
    char text[AUTHORITY_PEM_MAX];
    size_t size;
};

/* False: the system gave no memory. */
MUST_CHECK bool authority_make(struct authority *out);
/* Any authority whose certificate may sign others and whose key is the certificate's, made here or elsewhere. False: it is none. */
MUST_CHECK bool authority_parse(struct slice cert, struct slice key, struct authority *out);
void authority_fini(struct authority *a);
MUST_CHECK bool authority_write(const struct authority *a, struct authority_pem *cert_out,
                                struct authority_pem *key_out);

/* Letters, digits, '.', '-' and '_', the first a letter or a digit; AUTHORITY_NAME_MAX bytes at most: a directory can be named so. */
bool authority_name_good(const char *name);
/* A new key, and its certificate. `roles`: enum link_role. */
MUST_CHECK bool authority_issue(const struct authority *a, const char *name, uint8_t roles,
                                struct authority_pem *cert_out, struct authority_pem *key_out);
/* Has `a` signed this for that name and those roles, and no others? `days_out`: until it ends; negative: it has. */
MUST_CHECK bool authority_issued(const struct authority *a, struct slice cert, const char *name,
                                 uint8_t roles, int *days_out);
