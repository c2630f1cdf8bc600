#include "roles/settings.h"
#include "core/io.h"
#include "core/net_prefix.h"

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
    {"shutdown.grace", CONFIG_DURATION, "30s", "time that a graceful end may take", 0, HOUR},

    {"imap.listen", CONFIG_LIST, NULL, "ADDR:PORT of IMAP with STARTTLS"},
    {"imaps.listen", CONFIG_LIST, NULL, "ADDR:PORT of IMAP over TLS"},
    {"lmtp.listen", CONFIG_LIST, NULL, "ADDR:PORT of LMTP"},
    {"lmtp.from", CONFIG_LIST, "127.0.0.0/8,::1/128", "networks that may deliver"},
    {"proxy_protocol.from", CONFIG_LIST, NULL, "networks whose connections begin with a PROXY header"},
    {"admin.listen", CONFIG_LIST, NULL,
     "ADDR:PORT of HTTP for metrics and health; it asks for no password: not for the world"},
    {"admin.socket", CONFIG_STRING, NULL,
     "Unix socket of trireme ctl; an absolute path, or below data; default: ctl.sock"},

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

    {"limits.connections", CONFIG_U64, "1000000", "connections open at once, a process", 1, 100000000},
    {"limits.login_timeout", CONFIG_DURATION, "60s", "time to log in, TLS handshake included", 1000, HOUR},
    {"limits.session_idle", CONFIG_DURATION, "30min", "silence of a session that is logged in", MINUTE,
     24 * HOUR},
    {"limits.idle_keep_alive", CONFIG_DURATION, "2min", "between two '* OK Still here' of IDLE", 1000, HOUR},
    {"limits.bad_prelogin", CONFIG_U64, "3", "bad commands before login that end a connection", 1, 1000},
    {"limits.bad_session", CONFIG_U64, "20", "bad commands after login that end a connection", 1, 10000},
    {"limits.message_size", CONFIG_SIZE, "50MiB", "of one message, by LMTP or APPEND", 64 * KIB, 1024 * MIB},
    {"limits.recipients", CONFIG_U64, "1000", "of one message by LMTP", 1, 10000},
    {"log.level", CONFIG_STRING, "info", "the least important lines that are written",
     .choices = "debug|info|warn|error"},
    {"log.format", CONFIG_STRING, "text", "text or json", .choices = "text|json"},

    {"pop3.listen", CONFIG_UNSUPPORTED, NULL, "ADDR:PORT of POP3"},
    {"pop3s.listen", CONFIG_UNSUPPORTED, NULL, "ADDR:PORT of POP3 over TLS"},
    {"link.listen", CONFIG_UNSUPPORTED, NULL, "where other nodes' links arrive"},
    {"directors", CONFIG_UNSUPPORTED, NULL, "ADDR:PORT of the directors' links"},
    {"backends", CONFIG_UNSUPPORTED, NULL, "ADDR:PORT of the backends' links"},
    {"cluster.cert", CONFIG_UNSUPPORTED, NULL, "this node's certificate"},
    {"cluster.key", CONFIG_UNSUPPORTED, NULL, "its private key"},
    {"cluster.ca", CONFIG_UNSUPPORTED, NULL, "the cluster's authority"},
    {"xclient.from", CONFIG_UNSUPPORTED, NULL, "networks that may forward client data"},
    {"objects", CONFIG_UNSUPPORTED, NULL, "message store"},
    {"index", CONFIG_UNSUPPORTED, NULL, "index store"},
    {"sessions", CONFIG_UNSUPPORTED, NULL, "shared session and login state"},
    {"cache.fs.path", CONFIG_UNSUPPORTED, NULL, "cache of messages"},
    {"cache.fs.size", CONFIG_UNSUPPORTED, NULL, "its size"},
    {"cache.meta.path", CONFIG_UNSUPPORTED, NULL, "cache of indexes"},
    {"cache.meta.size", CONFIG_UNSUPPORTED, NULL, "its size"},
    {"debug.sleep_after", CONFIG_UNSUPPORTED, NULL, "how eagerly sessions sleep"},
};
const size_t settings_key_count = ARRAY_COUNT(settings_keys);

#define MAIL_LISTEN_KEYS 3 /* Of these: where clients come. */
static const char *const listen_keys[] = {"imap.listen", "imaps.listen", "lmtp.listen", "admin.listen"};

static bool listeners_check(const struct config *c, bool *loopback_out, struct config_error *error)
{
    size_t count = 0;

    *loopback_out = true;
    for (size_t k = 0; k < MAIL_LISTEN_KEYS; k++) {
        for (size_t i = 0; i < config_list_count(c, listen_keys[k]); i++, count++) {
            const char *text = config_list_item(c, listen_keys[k], i);
            struct net_addr addr;

            if (!net_addr_parse(slice_str(text), &addr))
                return config_wrong(c, listen_keys[k], error, "'%.80s' is not ADDR:PORT", text);
            *loopback_out = *loopback_out && net_addr_is_loopback(&addr);
        }
    }
    if (count == 0)
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

static bool auth_check(const struct config *c, bool loopback, struct config_error *error)
{
    bool file = config_string(c, "auth.passwd_file") != NULL;

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

bool settings_check(const struct config *c, struct config_error *error)
{
    bool loopback;
    uint64_t bytes;

    if (!role_check(c, error) || !listeners_check(c, &loopback, error) || !tls_check(c, error) ||
        !auth_check(c, loopback, error) || !admin_check(c, error))
        return false;
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
    return networks_check(c, "lmtp.from", error) && networks_check(c, "proxy_protocol.from", error);
}
