#include "roles/settings.h"
#include "core/cpu.h"
#include "core/io.h"
#include "core/net_prefix.h"
#include "net/link/link.h"
#include "roles/words/capability.h"

#define KIB    UINT64_C(1024)
#define MIB    (1024 * KIB)
#define MINUTE UINT64_C(60000)

#define MEMORY_MIN (64 * MIB)
#define HOUR       (60 * MINUTE)

const struct config_key settings_keys[] = {
    {"role", CONFIG_LIST, NULL, "what this process does; as --role", .choices = "proxy|director|backend|all"},
    {"data", CONFIG_STRING, "/var/lib/trireme", "directory of local state"},
    {"node", CONFIG_STRING, NULL, "this node's name; default: the host's name"},
    {"cores", CONFIG_STRING, "auto", "auto, a number of shards, or a list of CPUs such as 0-3,8"},
    {"cores.shared", CONFIG_BOOL, "false", "use CPUs that another Trireme process has claimed"},
    {"helpers", CONFIG_U64, "2", "threads for blocking work, such as password hashes", 1, 64},
    {"memory", CONFIG_STRING, "auto", "auto, or the size of the budget, such as 8GiB"},
    {"user", CONFIG_STRING, NULL, "whom the process becomes after its start"},
    {"group", CONFIG_STRING, NULL, "the group; default: the user's own"},
    {"sandbox", CONFIG_STRING, "auto", "auto: what the kernel has; required: all of it, or no start; off",
     .choices = "auto|required|off"},
    {"shutdown.grace", CONFIG_DURATION, "30s", "time that a graceful end may take", 0, HOUR},

    {"imap.listen", CONFIG_LIST, NULL, "ADDR:PORT of IMAP with STARTTLS"},
    {"imaps.listen", CONFIG_LIST, NULL, "ADDR:PORT of IMAP over TLS"},
    {"lmtp.listen", CONFIG_LIST, NULL, "ADDR:PORT of LMTP"},
    {"lmtp.from", CONFIG_LIST, "127.0.0.0/8,::1/128", "networks that may deliver"},
    {"proxy_protocol.from", CONFIG_LIST, NULL, "networks whose connections begin with a PROXY header"},
    {"xclient.from", CONFIG_LIST, NULL, "networks that may say by XCLIENT or ID who their client is"},
    {"admin.listen", CONFIG_LIST, NULL,
     "ADDR:PORT of HTTP for metrics and health; it asks for no password: not for the world"},
    {"admin.socket", CONFIG_STRING, NULL,
     "Unix socket of trireme ctl; an absolute path, or below data; default: ctl.sock"},

    {"link.listen", CONFIG_LIST, NULL, "ADDR:PORT where other nodes' links arrive"},
    {"link.ports", CONFIG_LIST, NULL,
     "ports of links that a proxy may connect to, besides those of directors; unset: no others"},
    {"directors", CONFIG_LIST, NULL, "ADDR:PORT of the directors' links, for a proxy"},
    {"backends", CONFIG_RECORDS, NULL, "ADDR:PORT of the backends' links, for a director; or addr and weight",
     .choices = "addr|weight|tag", .plain = true},
    {"cluster.cert", CONFIG_STRING, NULL, "PEM file: this node's certificate; CN is its name, OU its roles"},
    {"cluster.key", CONFIG_STRING, NULL, "PEM file: its private key"},
    {"cluster.ca", CONFIG_STRING, NULL, "PEM file: who signs the cluster's certificates"},
    {"cluster.features", CONFIG_U64, "1", /* FEATURE_LEVEL */
     "feature level that this node offers at most, for as long as its release may be taken back", 0,
     FEATURE_LEVEL},

    {"tls.cert", CONFIG_STRING, NULL, "PEM file: the certificate and its chain"},
    {"tls.key", CONFIG_STRING, NULL, "PEM file: its private key"},
    {"tls.sni", CONFIG_RECORDS, NULL, "further certificates, each for one server name",
     .choices = "name|cert|key"},

    {"auth.passwd_file", CONFIG_STRING, NULL,
     "passwd-file in Dovecot's format; an absolute path, or below data"},
    {"auth.static_password", CONFIG_STRING, NULL, "any user with this password; for tests, on loopback only"},
    {"auth.plaintext", CONFIG_STRING, "tls",
     "tls: passwords need TLS or a loopback peer; always: they do not", .choices = "tls|always"},
    {"auth.cache_ttl", CONFIG_DURATION, "1h", "how long a right password is remembered; 0: not at all", 0,
     24 * HOUR},
    {"auth.cache_size", CONFIG_U64, "65536", "logins that a core remembers, 48 bytes each; 0: none", 0,
     1 << 24},
    {"auth.failure_delay", CONFIG_DURATION, "2s", "a wrong password is answered no sooner", 0, MINUTE},

    {"ticket.renew_max", CONFIG_DURATION, "720h",
     "a session that has not asked its director for so long logs in again", 8000, 10000 * HOUR},

    {"limits.connections", CONFIG_U64, "1000000", "connections open at once, a process", 1, 100000000},
    {"limits.handshakes", CONFIG_U64, "4096",
     "TLS handshakes of clients under way at once, a process; over it addresses take turns", 1, 1000000},
    {"limits.login_timeout", CONFIG_DURATION, "60s", "time to log in, TLS handshake included", 1000, HOUR},
    {"limits.session_idle", CONFIG_DURATION, "30min", "silence of a session that is logged in", MINUTE,
     24 * HOUR},
    {"limits.idle_keep_alive", CONFIG_DURATION, "2min", "between two '* OK Still here' of IDLE", 1000, HOUR},
    {"limits.bad_prelogin", CONFIG_U64, "3", "bad commands before login that end a connection", 1, UINT8_MAX},
    {"limits.bad_session", CONFIG_U64, "20", "bad commands after login that end a connection", 1, UINT8_MAX},
    {"limits.outcome_wait", CONFIG_DURATION, "60s",
     "a change whose outcome is not known is asked for so long, then the connection is closed", 1000, HOUR},
    {"limits.message_size", CONFIG_SIZE, "50MiB", "of one message, by LMTP or APPEND", 64 * KIB, 1024 * MIB},
    {"limits.compress_memory", CONFIG_SIZE, "256MiB",
     "for the history of connections with COMPRESS=DEFLATE; over it no more begin", 1 * MIB,
     1024 * 1024 * MIB},
    {"limits.recipients", CONFIG_U64, "1000", "of one message by LMTP", 1, 10000},
    {"log.level", CONFIG_STRING, "info", "the least important lines that are written",
     .choices = "debug|info|warn|error"},
    {"log.format", CONFIG_STRING, "text", "text or json", .choices = "text|json"},
    {"debug.sleep_after", CONFIG_STRING, "idle",
     "a session sleeps when its client is quiet; after each command; or after each piece of input",
     .choices = "idle|command|record"},

    {"pop3.listen", CONFIG_UNSUPPORTED, NULL, "ADDR:PORT of POP3"},
    {"pop3s.listen", CONFIG_UNSUPPORTED, NULL, "ADDR:PORT of POP3 over TLS"},
    {"objects", CONFIG_UNSUPPORTED, NULL, "message store"},
    {"index", CONFIG_UNSUPPORTED, NULL, "index store"},
    {"sessions", CONFIG_UNSUPPORTED, NULL, "shared session and login state"},
    {"cache.fs.path", CONFIG_UNSUPPORTED, NULL, "cache of messages"},
    {"cache.fs.size", CONFIG_UNSUPPORTED, NULL, "its size"},
    {"cache.meta.path", CONFIG_UNSUPPORTED, NULL, "cache of indexes"},
    {"cache.meta.size", CONFIG_UNSUPPORTED, NULL, "its size"},
};
const size_t settings_key_count = ARRAY_COUNT(settings_keys);

static bool role_named(const struct config *c, const char *role)
{
    for (size_t i = 0; i < config_list_count(c, "role"); i++) {
        const char *name = config_list_item(c, "role", i);

        if (strcmp(name, role) == 0 || strcmp(name, "all") == 0)
            return true;
    }
    return false;
}

uint16_t settings_features(const struct config *c)
{
    _Static_assert(FEATURE_LEVEL == 1, "the default");
    return (uint16_t)config_u64(c, "cluster.features");
}

uint8_t settings_roles(const struct config *c)
{
    uint8_t roles = 0;

    if (config_list_count(c, "role") == 0)
        return LINK_ROLE_ALL;
    roles |= role_named(c, "proxy") ? LINK_ROLE_PROXY : 0;
    roles |= role_named(c, "director") ? LINK_ROLE_DIRECTOR : 0;
    roles |= role_named(c, "backend") ? LINK_ROLE_BACKEND : 0;
    return roles;
}

#define MAIL_LISTEN_KEYS     3 /* Of these: where clients come. */
#define LOOPBACK_LISTEN_KEYS 4 /* Of these: where mail goes. */
static const char *const listen_keys[] = {"imap.listen", "imaps.listen", "lmtp.listen", "link.listen",
                                          "admin.listen"};

static bool listeners_check(const struct config *c, bool *loopback_out, struct config_error *error)
{
    size_t count = 0;

    *loopback_out = true;
    for (size_t k = 0; k < LOOPBACK_LISTEN_KEYS; k++) {
        for (size_t i = 0; i < config_list_count(c, listen_keys[k]); i++, count += k < MAIL_LISTEN_KEYS) {
            const char *text = config_list_item(c, listen_keys[k], i);
            struct net_addr addr;

            if (!net_addr_parse(slice_str(text), &addr))
                return config_wrong(c, listen_keys[k], error, "'%.80s' is not ADDR:PORT", text);
            *loopback_out = *loopback_out && net_addr_is_loopback(&addr);
        }
    }
    if (count == 0 && role_named(c, "proxy"))
        return config_wrong(c, "imap.listen", error,
                            "nothing to listen on: set imap.listen, imaps.listen or lmtp.listen");
    return true;
}

int settings_each_listener(const struct config *c,
                           int (*each)(void *arg, const char *key, const char *text,
                                       const struct net_addr *addr),
                           void *arg)
{
    int rc = 0;

    for (size_t k = 0; k < ARRAY_COUNT(listen_keys); k++) {
        for (size_t i = 0; rc == 0 && i < config_list_count(c, listen_keys[k]); i++) {
            const char *text = config_list_item(c, listen_keys[k], i);
            struct net_addr addr;
            bool known = net_addr_parse(slice_str(text), &addr);

            ASSERT(known); /* settings_check() has seen it. */
            rc = each(arg, listen_keys[k], text, &addr);
        }
    }
    return rc;
}

/* The key of one before (key, index) that listens at `addr`, too; NULL: there is none. */
static const char *listened_by(const struct config *c, size_t key, size_t index, const struct net_addr *addr)
{
    for (size_t k = 0; k <= key; k++) {
        size_t count = k < key ? config_list_count(c, listen_keys[k]) : index;

        for (size_t i = 0; i < count; i++) {
            struct net_addr other;

            if (net_addr_parse(slice_str(config_list_item(c, listen_keys[k], i)), &other) &&
                other.port == addr->port && other.family == addr->family &&
                memcmp(other.ip, addr->ip, sizeof other.ip) == 0)
                return listen_keys[k];
        }
    }
    return NULL;
}

/* The kernel would take an address twice, since every shard listens, and share out its clients at random. */
static bool listeners_differ(const struct config *c, struct config_error *error)
{
    for (size_t k = 0; k < ARRAY_COUNT(listen_keys); k++) {
        for (size_t i = 0; i < config_list_count(c, listen_keys[k]); i++) {
            const char *text = config_list_item(c, listen_keys[k], i), *by;
            struct net_addr addr;

            if (!net_addr_parse(slice_str(text), &addr) || addr.port == 0)
                continue;
            by = listened_by(c, k, i, &addr);
            if (by != NULL)
                return config_wrong(c, listen_keys[k], error, "%.80s is an address of %s already", text, by);
        }
    }
    return true;
}

static bool auth_check(const struct config *c, bool loopback, struct config_error *error)
{
    bool file = config_string(c, "auth.passwd_file") != NULL;

    if (!role_named(c, "director"))
        return true;
    if (config_string(c, "auth.static_password") == NULL)
        return file ||
               config_wrong(c, "auth.passwd_file", error, "is not set: nobody could log in or get mail");
    if (file)
        return config_wrong(c, "auth.static_password", error, "cannot stand beside auth.passwd_file");
    if (!loopback)
        return config_wrong(
            c, "auth.static_password", error,
            "opens every account: allowed only while all listeners are on loopback addresses");
    return true;
}

static bool tls_check(const struct config *c, struct config_error *error)
{
    bool cert = config_string(c, "tls.cert") != NULL, key = config_string(c, "tls.key") != NULL;

    if (cert != key)
        return config_wrong(c, cert ? "tls.cert" : "tls.key", error, "needs %s, too",
                            cert ? "tls.key" : "tls.cert");
    if (!cert && config_list_count(c, "imaps.listen") > 0)
        return config_wrong(c, "imaps.listen", error, "needs tls.cert and tls.key");
    for (size_t i = 0; i < config_record_count(c, "tls.sni"); i++) {
        if (config_record_field(c, "tls.sni", i, "name") == NULL ||
            config_record_field(c, "tls.sni", i, "cert") == NULL ||
            config_record_field(c, "tls.sni", i, "key") == NULL)
            return config_wrong(c, "tls.sni", error, "entry %zu needs name, cert and key", i + 1);
    }
    if (!cert && config_record_count(c, "tls.sni") > 0)
        return config_wrong(c, "tls.sni", error,
                            "needs tls.cert and tls.key for clients that name no server");
    return true;
}

static bool role_check(const struct config *c, struct config_error *error)
{
    if (config_list_count(c, "role") == 0)
        return config_wrong(c, "role", error, "is not set: name one with --role");
    return true;
}

static bool networks_check(const struct config *c, const char *key, struct config_error *error)
{
    for (size_t i = 0; i < config_list_count(c, key); i++) {
        const char *text = config_list_item(c, key, i);
        struct net_prefix prefix;

        if (!net_prefix_parse(slice_str(text), &prefix))
            return config_wrong(c, key, error, "'%.80s' is not a network such as 10.0.0.0/8", text);
    }
    return true;
}

static bool admin_check(const struct config *c, struct config_error *error)
{
    const char *path = config_string(c, "admin.socket");

    for (size_t i = 0; i < config_list_count(c, "admin.listen"); i++) {
        const char *text = config_list_item(c, "admin.listen", i);
        struct net_addr addr;

        if (!net_addr_parse(slice_str(text), &addr))
            return config_wrong(c, "admin.listen", error, "'%.80s' is not ADDR:PORT", text);
    }
    return path == NULL || path[0] != '\0' || config_wrong(c, "admin.socket", error, "is empty");
}

/* ---- Links --------------------------------------------------------------------------------------------- */

static bool addr_check(const struct config *c, const char *key, const char *text, struct config_error *error)
{
    bool secret = config_string(c, "cluster.cert") != NULL;
    struct net_addr addr;

    if (text == NULL || !net_addr_parse(slice_str(text), &addr))
        return config_wrong(c, key, error, "'%.80s' is not ADDR:PORT", text != NULL ? text : "");
    if (!secret && !net_addr_is_loopback(&addr))
        return config_wrong(c, key, error,
                            "'%.80s' is not a loopback address: needs cluster.cert, key and ca", text);
    return true;
}

static bool addrs_check(const struct config *c, const char *key, struct config_error *error)
{
    for (size_t i = 0; i < config_list_count(c, key); i++) {
        if (!addr_check(c, key, config_list_item(c, key, i), error))
            return false;
    }
    return true;
}

static bool backends_check(const struct config *c, struct config_error *error)
{
    for (size_t i = 0; i < config_record_count(c, "backends"); i++) {
        const char *weight = config_record_field(c, "backends", i, "weight");
        uint64_t value;

        if (!addr_check(c, "backends", config_record_field(c, "backends", i, "addr"), error))
            return false;
        if (weight != NULL && (!slice_to_u64(slice_str(weight), 1000000, &value) || value == 0))
            return config_wrong(c, "backends", error, "weight '%.80s' is not a number from 1 to 1000000",
                                weight);
    }
    return true;
}

static bool ports_check(const struct config *c, struct config_error *error)
{
    for (size_t i = 0; i < config_list_count(c, "link.ports"); i++) {
        const char *text = config_list_item(c, "link.ports", i);
        uint64_t port;

        if (!slice_to_u64(slice_str(text), UINT16_MAX, &port) || port == 0)
            return config_wrong(c, "link.ports", error, "'%.80s' is not a port", text);
    }
    return true;
}

static bool cluster_files_check(const struct config *c, struct config_error *error)
{
    static const char *const keys[] = {"cluster.cert", "cluster.key", "cluster.ca"};
    unsigned count = 0;

    for (size_t i = 0; i < ARRAY_COUNT(keys); i++)
        count += config_string(c, keys[i]) != NULL;
    return count == 0 || count == ARRAY_COUNT(keys) ||
           config_wrong(c, "cluster.cert", error, "cluster.cert, cluster.key and cluster.ca go together");
}

/* A process with all roles is a server of its own; every other needs links to the roles that it does not have. */
static bool links_check(const struct config *c, struct config_error *error)
{
    uint8_t roles = settings_roles(c);
    bool listens = config_list_count(c, "link.listen") > 0;
    bool directors = config_list_count(c, "directors") > 0, backends = config_record_count(c, "backends") > 0;

    if (!ports_check(c, error) || !cluster_files_check(c, error) || !addrs_check(c, "link.listen", error) ||
        !addrs_check(c, "directors", error) || !backends_check(c, error))
        return false;
    if (roles == LINK_ROLE_ALL) {
        if (listens || directors || backends)
            return config_wrong(c,
                                listens     ? "link.listen"
                                : directors ? "directors"
                                            : "backends",
                                error, "has no meaning: all roles are in this process");
        return true;
    }
    if (!listens && (roles & (LINK_ROLE_DIRECTOR | LINK_ROLE_BACKEND)) != 0)
        return config_wrong(c, "link.listen", error, "is not set: nobody could reach this %s",
                            (roles & LINK_ROLE_DIRECTOR) != 0 ? "director" : "backend");
    if (!directors && (roles & (LINK_ROLE_PROXY | LINK_ROLE_DIRECTOR)) == LINK_ROLE_PROXY)
        return config_wrong(c, "directors", error, "is not set: nobody could log in");
    if (!backends && (roles & (LINK_ROLE_DIRECTOR | LINK_ROLE_BACKEND)) == LINK_ROLE_DIRECTOR)
        return config_wrong(c, "backends", error, "is not set: nobody's mail could be anywhere");
    return true;
}

bool settings_check(const struct config *c, struct config_error *error)
{
    bool loopback;
    uint64_t bytes;

    if (!role_check(c, error) || !listeners_check(c, &loopback, error) || !tls_check(c, error) ||
        !auth_check(c, loopback, error) || !admin_check(c, error) || !links_check(c, error) ||
        !listeners_differ(c, error))
        return false;
    if (!cpu_cores_valid(config_string(c, "cores")))
        return config_wrong(c, "cores", error, "is not " CPU_CORES_WANTED);
    if (config_string(c, "group") != NULL && config_string(c, "user") == NULL)
        return config_wrong(c, "group", error, "needs user, too");
    if (strcmp(config_string(c, "memory"), "auto") != 0 &&
        !config_size_parse(slice_str(config_string(c, "memory")), &bytes))
        return config_wrong(c, "memory", error, "is neither auto nor a size such as 8GiB");
    if (strcmp(config_string(c, "memory"), "auto") != 0 && bytes < MEMORY_MIN)
        return config_wrong(c, "memory", error, "is less than the %u MiB that a server needs",
                            (unsigned)(MEMORY_MIN / MIB));
    if (config_string(c, "data")[0] != '/')
        return config_wrong(c, "data", error, "is not an absolute path");
    return networks_check(c, "lmtp.from", error) && networks_check(c, "proxy_protocol.from", error) &&
           networks_check(c, "xclient.from", error);
}
