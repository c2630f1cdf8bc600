#include "roles/authority.h"
#include "net/link/link.h"
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/ec_key.h>
#include <openssl/evp.h>
#include <openssl/nid.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdio.h>

#define DAY_S       86400L
#define EARLIER_S   3600L /* Clocks of nodes differ. */
#define SERIAL_BITS 127   /* Random; positive in 16 bytes. */

_Static_assert(AUTHORITY_NAME_MAX == LINK_NODE_NAME_MAX, "what is signed is what links take");

static const struct {
    uint8_t role;
    const char *unit;
} units[] = {{LINK_ROLE_PROXY, "proxy"}, {LINK_ROLE_DIRECTOR, "director"}, {LINK_ROLE_BACKEND, "backend"}};

/* ---- PEM ----------------------------------------------------------------------------------------------- */

static int no_password(char *buffer, int size, int writing, void *arg)
{
    return 0;
}

static bool pem_take(BIO *from, bool written, struct authority_pem *out)
{
    const uint8_t *bytes;
    size_t size;

    if (!written || !BIO_mem_contents(from, &bytes, &size) || size > sizeof out->text)
        return false;
    memcpy(out->text, bytes, size);
    out->size = size;
    return true;
}

static bool pem_write(X509 *cert, EVP_PKEY *key, struct authority_pem *cert_out,
                      struct authority_pem *key_out)
{
    BIO *cert_bio = BIO_new(BIO_s_mem()), *key_bio = BIO_new(BIO_s_mem());
    bool good = cert_bio != NULL && key_bio != NULL &&
                pem_take(cert_bio, PEM_write_bio_X509(cert_bio, cert), cert_out) &&
                pem_take(key_bio, PEM_write_bio_PrivateKey(key_bio, key, NULL, NULL, 0, NULL, NULL), key_out);

    BIO_free(cert_bio);
    BIO_free(key_bio); /* The library wipes what it frees. */
    return good;
}

static X509 *cert_parse(struct slice pem)
{
    BIO *bio = pem.size < INT32_MAX ? BIO_new_mem_buf(pem.data, (int)pem.size) : NULL;
    X509 *cert = bio != NULL ? PEM_read_bio_X509(bio, NULL, no_password, NULL) : NULL;

    BIO_free(bio);
    return cert;
}

static EVP_PKEY *key_parse(struct slice pem)
{
    BIO *bio = pem.size < INT32_MAX ? BIO_new_mem_buf(pem.data, (int)pem.size) : NULL;
    EVP_PKEY *key = bio != NULL ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;

    BIO_free(bio);
    return key;
}

/* ---- Certificates -------------------------------------------------------------------------------------- */

static EVP_PKEY *key_new(void)
{
    EC_KEY *ec = EC_KEY_new_by_curve_name(NID_X9_62_prime256v1);
    EVP_PKEY *key = EVP_PKEY_new();

    if (ec == NULL || key == NULL || !EC_KEY_generate_key(ec) || !EVP_PKEY_set1_EC_KEY(key, ec)) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    EC_KEY_free(ec);
    return key;
}

static bool serial_set(X509 *cert)
{
    BIGNUM *number = BN_new();
    bool good = number != NULL && BN_rand(number, SERIAL_BITS, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) &&
                BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert)) != NULL;

    BN_free(number);
    return good;
}

static bool name_add(X509_NAME *subject, int nid, const char *text)
{
    return X509_NAME_add_entry_by_NID(subject, nid, MBSTRING_UTF8, (const uint8_t *)text, -1, -1, 0);
}

static bool subject_set(X509 *cert, const char *name, uint8_t roles)
{
    X509_NAME *subject = X509_get_subject_name(cert);
    bool good = true;

    for (size_t i = 0; good && i < ARRAY_COUNT(units); i++)
        good = (roles & units[i].role) == 0 || name_add(subject, NID_organizationalUnitName, units[i].unit);
    return good && name_add(subject, NID_commonName, name);
}

static bool extend(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509_EXTENSION *extension;
    bool good;

    X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
    extension = X509V3_EXT_nconf_nid(NULL, &context, nid, value);
    good = extension != NULL && X509_add_ext(cert, extension, -1);
    X509_EXTENSION_free(extension);
    return good;
}

/* What all have: version 3, a serial, a span of time, a subject, the key, and its identifier. */
static X509 *cert_new(EVP_PKEY *key, const char *name, uint8_t roles, long days)
{
    X509 *cert = X509_new();

    if (cert == NULL)
        return NULL;
    if (!X509_set_version(cert, X509_VERSION_3) || !serial_set(cert) ||
        X509_gmtime_adj(X509_getm_notBefore(cert), -EARLIER_S) == NULL ||
        X509_gmtime_adj(X509_getm_notAfter(cert), days * DAY_S) == NULL || !subject_set(cert, name, roles) ||
        !X509_set_pubkey(cert, key) || !extend(cert, NULL, NID_subject_key_identifier, "hash")) {
        X509_free(cert);
        return NULL;
    }
    return cert;
}

static bool authority_sign_self(X509 *cert, EVP_PKEY *key)
{
    return X509_set_issuer_name(cert, X509_get_subject_name(cert)) &&
           extend(cert, cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
           extend(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign") &&
           X509_sign(cert, key, EVP_sha256());
}

/* Nodes are checked by CN and OU; the DNS name is for whoever looks with other tools. */
static bool node_sign(const struct authority *a, X509 *cert, const char *name)
{
    char alternative[AUTHORITY_NAME_MAX + 8];

    snprintf(alternative, sizeof alternative, "DNS:%s", name);
    return X509_set_issuer_name(cert, X509_get_subject_name(a->cert)) &&
           extend(cert, a->cert, NID_basic_constraints, "critical,CA:FALSE") &&
           extend(cert, a->cert, NID_key_usage, "critical,digitalSignature") &&
           extend(cert, a->cert, NID_ext_key_usage, "serverAuth,clientAuth") &&
           extend(cert, a->cert, NID_subject_alt_name, alternative) &&
           extend(cert, a->cert, NID_authority_key_identifier, "keyid") &&
           X509_sign(cert, a->key, EVP_sha256());
}

/* ---- The authority ------------------------------------------------------------------------------------- */

bool authority_make(struct authority *out)
{
    EVP_PKEY *key = key_new();
    X509 *cert = key != NULL ? cert_new(key, "Trireme cluster", 0, AUTHORITY_DAYS) : NULL;

    *out = (struct authority){cert, key};
    if (cert != NULL && authority_sign_self(cert, key))
        return true;
    authority_fini(out);
    return false;
}

bool authority_parse(struct slice cert, struct slice key, struct authority *out)
{
    *out = (struct authority){cert_parse(cert), key_parse(key)};
    if (out->cert != NULL && out->key != NULL && X509_check_ca(out->cert) &&
        X509_check_private_key(out->cert, out->key))
        return true;
    authority_fini(out);
    return false;
}

void authority_fini(struct authority *a)
{
    X509_free(a->cert);
    EVP_PKEY_free(a->key);
    *a = (struct authority){NULL, NULL};
}

bool authority_write(const struct authority *a, struct authority_pem *cert_out, struct authority_pem *key_out)
{
    return pem_write(a->cert, a->key, cert_out, key_out);
}

/* ---- Nodes --------------------------------------------------------------------------------------------- */

static bool is_alphanumeric(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

bool authority_name_good(const char *name)
{
    size_t size = strlen(name);

    if (size == 0 || size > AUTHORITY_NAME_MAX || !is_alphanumeric(name[0]))
        return false;
    for (size_t i = 1; i < size; i++) {
        if (!is_alphanumeric(name[i]) && strchr(".-_", name[i]) == NULL)
            return false;
    }
    return true;
}

bool authority_issue(const struct authority *a, const char *name, uint8_t roles,
                     struct authority_pem *cert_out, struct authority_pem *key_out)
{
    EVP_PKEY *key = key_new();
    X509 *cert;
    bool good;

    ASSERT(authority_name_good(name));
    ASSERT(roles != 0);
    cert = key != NULL ? cert_new(key, name, roles, AUTHORITY_NODE_DAYS) : NULL;
    good = cert != NULL && node_sign(a, cert, name) && pem_write(cert, key, cert_out, key_out);
    X509_free(cert);
    EVP_PKEY_free(key);
    return good;
}

static bool subject_is(X509 *cert, const char *name, uint8_t roles)
{
    X509 *wanted = X509_new();
    bool same = wanted != NULL && subject_set(wanted, name, roles) &&
                X509_NAME_cmp(X509_get_subject_name(cert), X509_get_subject_name(wanted)) == 0;

    X509_free(wanted);
    return same;
}

bool authority_issued(const struct authority *a, struct slice pem, const char *name, uint8_t roles,
                      int *days_out)
{
    X509 *cert = cert_parse(pem);
    int days, seconds;
    bool good = cert != NULL && X509_verify(cert, a->key) > 0 && subject_is(cert, name, roles) &&
                ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(cert));

    X509_free(cert);
    if (good)
        *days_out = days;
    return good;
}
