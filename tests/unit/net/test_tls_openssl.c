/* TLS against OpenSSL's client, the program `openssl s_client`: versions, names, resumption, STARTTLS,
 * refusals. Skipped where it is not installed. */
#include "core/heap.h"
#include "net/conn.h"
#include "tests/unit/net/certificates.h"
#include "tests/unit/net/fd_door.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define WAIT_MS 5000

static struct tls_context *context;
static int listener;
static char port[8];
static char session_file[] = "/tmp/trireme-test-session-XXXXXX";

/* ---- The server: lines come back; STARTTLS as IMAP has it ---------------------------------------------- */

static struct conn *conn;
static unsigned lines_clear, lines_tls;
static bool secured, closed, resumed;
static bool naps; /* Sleeps and wakes behind every record, whenever it can. */
static unsigned nap_count;
static int why;
static char version[16], cipher[64], server_name[64], error_text[64];

static void nap(struct conn *c)
{
    uint8_t packed[TLS_PACKED_MAX];
    size_t size = naps && c->tls != NULL ? tls_pack(c->tls, packed) : 0;

    if (size == 0)
        return;
    c->tls = tls_unpack(packed, size);
    assert_non_null(c->tls);
    nap_count++;
}

#define BULK_SIZE (300 * 1000)

static void write_bulk(struct conn *c)
{
    static const char line[] = "....+....1....+....2....+....3....+....4....+....\n";

    for (unsigned i = 0; i < BULK_SIZE / (sizeof line - 1); i++)
        conn_write(c, slice_of(line, sizeof line - 1));
}

static size_t on_data(struct conn *c, struct slice in)
{
    size_t size = slice_find(in, '\n');
    struct slice line = slice_first(in, size);

    nap(c);

    if (size == in.size)
        return 0;
    if (c->tls != NULL)
        lines_tls++;
    else
        lines_clear++;
    if (c->tls == NULL && line.size > 2 && slice_eq(slice_from(line, 2), SLICE("STARTTLS\r"))) {
        conn_write(c, SLICE("a OK begin\r\n"));
        conn_start_tls(c, context, SLICE("imap"));
        return size + 1;
    }
    if (slice_eq(line, SLICE(". CAPABILITY\r"))) { /* s_client asks for CAPABILITY first. */
        conn_write(c, SLICE("* CAPABILITY IMAP4rev1 STARTTLS\r\n. OK done\r\n"));
        return size + 1;
    }
    if (slice_eq(line, SLICE("bulk")))
        write_bulk(c);
    conn_write(c, SLICE("echo "));
    conn_write(c, slice_first(in, size + 1));
    return size + 1;
}

static void on_secured(struct conn *c)
{
    struct slice name = tls_server_name(c->tls);

    secured = true;
    resumed = tls_resumed(c->tls);
    snprintf(version, sizeof version, "%s", tls_version(c->tls));
    snprintf(cipher, sizeof cipher, "%s", tls_cipher(c->tls));
    snprintf(server_name, sizeof server_name, "%.*s", (int)name.size, name.data);
    conn_write(c, SLICE("hello\n"));
}

static void on_ended(struct conn *c, int ended_why)
{
    why = ended_why;
    if (c->tls != NULL)
        snprintf(error_text, sizeof error_text, "%s", tls_error(c->tls));
    conn_close(c);
}

static void on_closed(struct conn *c)
{
    closed = true;
}

static const struct conn_ops ops = {on_data, NULL, on_secured, on_ended, on_closed};

static void serve(int fd, bool starttls)
{
    static struct conn c;
    struct net_addr nobody = {0};

    lines_clear = lines_tls = nap_count = 0;
    secured = closed = resumed = false;
    why = 1;
    version[0] = cipher[0] = server_name[0] = error_text[0] = '\0';
    conn = &c;
    conn_init(&c, door_take(fd), &nobody, 8192, &ops);
    if (starttls)
        conn_write(&c, SLICE("* OK ready\r\n"));
    else
        conn_start_tls(&c, context, SLICE("imap"));
}

/* ---- The client ---------------------------------------------------------------------------------------- */

struct client {
    pid_t pid;
    int in, out;
    char text[4 * BULK_SIZE];
    size_t size;
};

static void client_start(struct client *k, const char *const *options)
{
    char target[32];
    const char *arguments[24] = {"openssl", "s_client", "-connect", target};
    int in[2], out[2];
    unsigned count = 4;

    snprintf(target, sizeof target, "127.0.0.1:%s", port);
    while (*options != NULL)
        arguments[count++] = *options++;
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    k->pid = fork();
    if (k->pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        dup2(out[1], 2);
        execvp("openssl", (char **)arguments);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    k->in = in[1];
    k->out = out[0];
    k->size = 0;
    k->text[0] = '\0';
}

static void client_read(struct client *k)
{
    ssize_t rc = read(k->out, k->text + k->size, sizeof k->text - 1 - k->size);

    if (rc > 0)
        k->size += (size_t)rc;
    k->text[k->size] = '\0';
}

static int accept_one(void)
{
    struct pollfd p = {.fd = listener, .events = POLLIN};

    assert_int_equal(poll(&p, 1, WAIT_MS), 1);
    return accept(listener, NULL, NULL);
}

/* Until the client has printed `text`; NULL: until the connection has ended. */
static void client_expect(struct client *k, const char *text)
{
    for (unsigned ms = 0; ms < WAIT_MS; ms += 5) {
        door_settle(0);
        if (!closed)
            nap(conn);
        client_read(k);
        if (text != NULL ? strstr(k->text, text) != NULL : closed)
            return;
        poll(NULL, 0, 5);
    }
    print_error("the client said:\n%s\n", k->text);
    assert_string_equal("in time", text != NULL ? text : "the end");
}

/* s_client looks at the first byte of what one read of its input brings: each "K" waits for its echo. */
static void client_update_keys(struct client *k, const char *command)
{
    unsigned before = 0, now = 0;

    for (const char *at = k->text; (at = strstr(at, "KEYUPDATE")) != NULL; at++)
        before++;
    assert_int_equal(write(k->in, command, 2), 2);
    for (unsigned ms = 0; ms < WAIT_MS && now <= before; ms += 5) {
        now = 0;
        for (const char *at = k->text; (at = strstr(at, "KEYUPDATE")) != NULL; at++)
            now++;
        poll(NULL, 0, 5);
        client_read(k);
    }
    assert_true(now > before);
}

static void wait_lines(struct client *k, unsigned count)
{
    for (unsigned ms = 0; ms < WAIT_MS && lines_tls < count; ms += 5) {
        door_settle(0);
        nap(conn);
        client_read(k);
        poll(NULL, 0, 5);
    }
    assert_int_equal(lines_tls, count);
}

static void client_say(struct client *k, const char *text)
{
    assert_int_equal(write(k->in, text, strlen(text)), strlen(text));
}

static void client_end(struct client *k)
{
    close(k->in);
    client_expect(k, NULL);
    close(k->out);
    waitpid(k->pid, NULL, 0);
}

#define OPTIONS(...)                                                                                         \
    (const char *const[])                                                                                    \
    {                                                                                                        \
        __VA_ARGS__, NULL                                                                                    \
    }

static void talk(const char *const *options)
{
    static struct client k;

    client_start(&k, options);
    serve(accept_one(), false);
    client_expect(&k, "hello");
    client_say(&k, "first line\n");
    client_expect(&k, "echo first line");
    client_end(&k);
    assert_int_equal(why, 0);
    assert_int_equal(lines_tls, 1);
}

/* The handshake fails; nothing reaches data(). */
static void refused(const char *const *options, const char *reason)
{
    static struct client k;

    client_start(&k, options);
    serve(accept_one(), false);
    client_expect(&k, NULL);
    client_end(&k);
    assert_false(secured);
    assert_int_equal(lines_tls + lines_clear, 0);
    assert_int_equal(why, -EPROTO);
    assert_string_equal(error_text, reason);
}

/* ---- Tests --------------------------------------------------------------------------------------------- */

static void test_versions(void **state)
{
    talk(OPTIONS("-tls1_3", "-quiet", "-no_ign_eof"));
    assert_string_equal(version, "TLSv1.3");
    assert_non_null(strstr(cipher, "_GCM_")); /* Which AES is the client's choice. */
    talk(OPTIONS("-tls1_2", "-quiet", "-no_ign_eof"));
    assert_string_equal(version, "TLSv1.2");
    assert_string_equal(cipher, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");
    talk(OPTIONS("-tls1_3", "-quiet", "-no_ign_eof", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"));
    talk(OPTIONS("-tls1_2", "-quiet", "-no_ign_eof", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"));
    refused(OPTIONS("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"), "UNSUPPORTED_PROTOCOL");
    refused(OPTIONS("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA"), "NO_SHARED_CIPHER");
}

static void test_names(void **state)
{
    talk(OPTIONS("-quiet", "-no_ign_eof", "-servername", "a.example.net"));
    assert_string_equal(server_name, "a.example.net");
    static struct client k;

    client_start(&k, OPTIONS("-servername", "RSA.example.org"));
    serve(accept_one(), false);
    client_expect(&k, "hello");
    client_expect(&k, "CN = rsa.example.org");
    client_end(&k);
    client_start(&k, OPTIONS("-servername", "a.example.net"));
    serve(accept_one(), false);
    client_expect(&k, "CN = other.example.net");
    client_end(&k);
    client_start(&k, OPTIONS("-servername", "a.b.example.net")); /* A star is one label. */
    serve(accept_one(), false);
    client_expect(&k, "CN = mail.example.org");
    client_end(&k);
    client_start(&k, OPTIONS("-noservername"));
    serve(accept_one(), false);
    client_expect(&k, "CN = mail.example.org");
    client_end(&k);
}

static void test_alpn(void **state)
{
    talk(OPTIONS("-quiet", "-no_ign_eof", "-alpn", "h2,imap"));
    refused(OPTIONS("-alpn", "h2,http/1.1"), "NO_APPLICATION_PROTOCOL");
}

/* TLS 1.2's tickets are not given. */
static void resume(const char *version_option, bool resumes)
{
    talk(OPTIONS(version_option, "-quiet", "-no_ign_eof", "-sess_out", session_file));
    assert_false(resumed);
    talk(OPTIONS(version_option, "-quiet", "-no_ign_eof", "-sess_in", session_file));
    assert_int_equal(resumed, resumes);
}

static void test_resumption(void **state)
{
    resume("-tls1_3", true);
    resume("-tls1_2", false);
}

static const struct {
    const char *option, *value, *server_name, *name;
} suites[] = {
    {"-ciphersuites", "TLS_AES_128_GCM_SHA256", "x", "TLS_AES_128_GCM_SHA256"},
    {"-ciphersuites", "TLS_AES_256_GCM_SHA384", "x", "TLS_AES_256_GCM_SHA384"},
    {"-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256", "x", "TLS_CHACHA20_POLY1305_SHA256"},
    {"-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256", "x", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
    {"-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384", "x", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"},
    {"-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305", "x", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"},
    {"-cipher", "ECDHE-RSA-AES128-GCM-SHA256", "rsa.example.org", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
    {"-cipher", "ECDHE-RSA-AES256-GCM-SHA384", "rsa.example.org", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"},
    {"-cipher", "ECDHE-RSA-CHACHA20-POLY1305", "rsa.example.org",
     "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"},
};

static void suite_talk(unsigned i)
{
    static struct client k;
    const char *version_option = i < 3 ? "-tls1_3" : "-tls1_2";

    client_start(&k, OPTIONS(version_option, suites[i].option, suites[i].value, "-servername",
                             suites[i].server_name, "-quiet", "-no_ign_eof"));
    serve(accept_one(), false);
    client_expect(&k, "hello");
    assert_string_equal(cipher, suites[i].name);
    for (unsigned line = 0; line < 5; line++) {
        char text[16], answer[32];

        snprintf(text, sizeof text, "line %u\n", line);
        snprintf(answer, sizeof answer, "echo line %u\n", line);
        client_say(&k, text);
        client_expect(&k, answer);
    }
    client_say(&k, "bulk\n");
    client_expect(&k, "echo bulk");
    client_say(&k, "last\n");
    client_expect(&k, "echo last");
    client_end(&k);
    assert_int_equal(why, 0);
    assert_int_equal(lines_tls, 7);
    assert_true(k.size > BULK_SIZE);
    assert_true(naps ? nap_count >= 7 : nap_count == 0);
}

static void test_suites(void **state)
{
    for (unsigned i = 0; i < sizeof suites / sizeof suites[0]; i++)
        suite_talk(i);
}

/* s_client: "K" on a line changes its keys and asks for ours, "k" only changes its own. */
static void keys_talk(void)
{
    static struct client k;

    for (unsigned i = 0; i < 3; i++) {
        client_start(&k, OPTIONS("-tls1_3", suites[i].option, suites[i].value));
        serve(accept_one(), false);
        client_expect(&k, "hello");
        client_update_keys(&k, "K\n");
        client_say(&k, "after\n");
        client_expect(&k, "echo after");
        client_update_keys(&k, "k\n");
        client_update_keys(&k, "K\n");
        client_update_keys(&k, "K\n"); /* Again, before our answer. */
        client_say(&k, "twice\n");
        client_expect(&k, "echo twice");
        door_hold_sends = true; /* In the middle of our output. */
        client_say(&k, "bulk\n");
        wait_lines(&k, 3);
        client_update_keys(&k, "K\n");
        client_say(&k, "meanwhile\n");
        wait_lines(&k, 4);
        door_hold_sends = false;
        client_expect(&k, "echo meanwhile");
        client_update_keys(&k, "K\n");
        client_say(&k, "last\n");
        client_expect(&k, "echo last");
        client_end(&k);
        assert_int_equal(why, 0);
        assert_true(k.size > BULK_SIZE);
    }
}

/* "R" (TLS 1.2) asks for a renegotiation: refused, and s_client gives up. */
static void test_keys(void **state)
{
    static struct client k;

    keys_talk();
    client_start(&k, OPTIONS("-tls1_2"));
    serve(accept_one(), false);
    client_expect(&k, "hello");
    client_say(&k, "R\n");
    client_expect(&k, "no renegotiation");
    client_end(&k);
    assert_int_equal(lines_tls, 0);
}

/* OpenSSL does not notice. */
static void test_naps(void **state)
{
    naps = true;
    test_suites(state);
    keys_talk();
    resume("-tls1_3", true);
    naps = false;
}

static void test_starttls(void **state)
{
    static struct client k;

    client_start(&k, OPTIONS("-starttls", "imap", "-quiet", "-no_ign_eof", "-crlf"));
    serve(accept_one(), true);
    client_expect(&k, "hello");
    assert_int_equal(lines_tls, 0);
    client_say(&k, "inside\n");
    client_expect(&k, "echo inside");
    client_end(&k);
    assert_int_equal(lines_tls, 1);
    assert_int_equal(why, 0);
}

/* One segment: STARTTLS, and a command that must be run neither now nor inside TLS. */
static void test_injection(void **state)
{
    static const char text[] = "a STARTTLS\r\nb NOOP\r\nb LOGIN u p\r\n";
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)atoi(port)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char answer[256] = "";

    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    assert_int_equal(send(fd, text, strlen(text), 0), strlen(text));
    serve(accept_one(), true);
    door_settle(50);
    assert_true(recv(fd, answer, sizeof answer - 1, 0) > 0);
    assert_string_equal(answer, "* OK ready\r\na OK begin\r\n");
    assert_int_equal(lines_clear, 1);
    assert_int_equal(send(fd, "c NOOP\r\n", 8, 0), 8); /* Not TLS: the end, without a word of it run. */
    door_settle(50);
    assert_int_equal(lines_clear, 1);
    assert_int_equal(lines_tls, 0);
    assert_true(closed);
    assert_int_equal(why, -EPROTO);
    close(fd);
}

static int setup(void **state)
{
    static const struct tls_pair pairs[] = {
        {.cert = SLICE(DEFAULT_CERT), .key = SLICE(DEFAULT_KEY)},
        {.name = SLICE("*.example.net"), .cert = SLICE(OTHER_CERT), .key = SLICE(OTHER_KEY)},
        {.name = SLICE("rsa.example.org"), .cert = SLICE(RSA_CERT), .key = SLICE(RSA_KEY)},
    };
    static const struct tls_ticket_keys keys = {1, {"a key for tests"}};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t at_size = sizeof at;
    char error[TLS_ERROR_MAX];

    signal(SIGPIPE, SIG_IGN);
    door_start();
    assert_int_equal(tls_context_create(pairs, 3, &keys, &context, error), 0);
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(listener, 8), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&at, &at_size), 0);
    snprintf(port, sizeof port, "%u", ntohs(at.sin_port));
    close(mkstemp(session_file));
    return 0;
}

static int teardown(void **state)
{
    unlink(session_file);
    close(listener);
    tls_context_release(context);
    assert_int_equal(heap_used(shard_self()->heap), 0);
    door_stop();
    return 0;
}

/* What is wrong with a certificate is said. */
static void test_bad_certificates(void **state)
{
    static const struct tls_ticket_keys keys = {1, {{0}}};
    struct tls_pair pairs[2] = {{.cert = SLICE(DEFAULT_CERT), .key = SLICE(DEFAULT_KEY)},
                                {.name = SLICE("x.org"), .cert = SLICE("junk"), .key = SLICE(OTHER_KEY)}};
    struct tls_context *c;
    char error[TLS_ERROR_MAX];

    assert_int_equal(tls_context_create(pairs, 2, &keys, &c, error), -EINVAL);
    assert_string_equal(error, "x.org: not a certificate in PEM: NO_START_LINE");
    pairs[1].cert = SLICE(DEFAULT_CERT);
    assert_int_equal(tls_context_create(pairs, 2, &keys, &c, error), -EINVAL);
    assert_string_equal(error, "x.org: not the certificate's private key in PEM: KEY_VALUES_MISMATCH");
    pairs[1].key = SLICE("");
    assert_int_equal(tls_context_create(pairs, 2, &keys, &c, error), -EINVAL);
    assert_int_equal(tls_context_create_client(SLICE("junk"), &c, error), -EINVAL);
    assert_int_equal(tls_context_create_client(SLICE(DEFAULT_CERT), &c, error), 0);
    tls_context_release(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_versions),  cmocka_unit_test(test_names),
        cmocka_unit_test(test_alpn),      cmocka_unit_test(test_resumption),
        cmocka_unit_test(test_suites),    cmocka_unit_test(test_naps),
        cmocka_unit_test(test_keys),      cmocka_unit_test(test_starttls),
        cmocka_unit_test(test_injection), cmocka_unit_test(test_bad_certificates),
    };

    if (system("openssl version >/dev/null 2>&1") != 0)
        return 77; /* Skipped, to meson. */
    return cmocka_run_group_tests(tests, setup, teardown);
}
