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
static int why;
static char version[16], cipher[64], server_name[64], error_text[64];

static size_t on_data(struct conn *c, struct slice in)
{
    size_t size = slice_find(in, '\n');
    struct slice line = slice_first(in, size);

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

    lines_clear = lines_tls = 0;
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
    char text[65536];
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
        client_read(k);
        if (text != NULL ? strstr(k->text, text) != NULL : closed)
            return;
        poll(NULL, 0, 5);
    }
    print_error("the client said:\n%s\n", k->text);
    assert_string_equal("in time", text != NULL ? text : "the end");
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
    struct client k;

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
    struct client k;

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
    struct client k;

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

/* s_client: "K" on a line asks for new keys both ways, "R" (TLS 1.2) for a renegotiation. */
static void test_keys(void **state)
{
    struct client k;

    client_start(&k, OPTIONS("-tls1_3"));
    serve(accept_one(), false);
    client_expect(&k, "hello");
    client_say(&k, "K\n");
    client_expect(&k, "KEYUPDATE");
    client_say(&k, "after\n");
    client_expect(&k, "echo after");
    client_end(&k);
    client_start(&k, OPTIONS("-tls1_2"));
    serve(accept_one(), false);
    client_expect(&k, "hello");
    client_say(&k, "R\n");
    client_expect(&k, NULL);
    client_end(&k);
    assert_int_equal(lines_tls, 0);
}

static void test_starttls(void **state)
{
    struct client k;

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
    static const uint8_t key[TLS_TICKET_KEY_SIZE] = "a key for tests";
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t at_size = sizeof at;
    char error[TLS_ERROR_MAX];

    signal(SIGPIPE, SIG_IGN);
    door_start();
    assert_int_equal(tls_context_create(pairs, 3, key, &context, error), 0);
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
    static const uint8_t key[TLS_TICKET_KEY_SIZE];
    struct tls_pair pairs[2] = {{.cert = SLICE(DEFAULT_CERT), .key = SLICE(DEFAULT_KEY)},
                                {.name = SLICE("x.org"), .cert = SLICE("junk"), .key = SLICE(OTHER_KEY)}};
    struct tls_context *c;
    char error[TLS_ERROR_MAX];

    assert_int_equal(tls_context_create(pairs, 2, key, &c, error), -EINVAL);
    assert_string_equal(error, "x.org: not a certificate in PEM: NO_START_LINE");
    pairs[1].cert = SLICE(DEFAULT_CERT);
    assert_int_equal(tls_context_create(pairs, 2, key, &c, error), -EINVAL);
    assert_string_equal(error, "x.org: not the certificate's private key in PEM: KEY_VALUES_MISMATCH");
    pairs[1].key = SLICE("");
    assert_int_equal(tls_context_create(pairs, 2, key, &c, error), -EINVAL);
    assert_int_equal(tls_context_create_client(SLICE("junk"), &c, error), -EINVAL);
    assert_int_equal(tls_context_create_client(SLICE(DEFAULT_CERT), &c, error), 0);
    tls_context_release(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_versions),  cmocka_unit_test(test_names),
        cmocka_unit_test(test_alpn),      cmocka_unit_test(test_resumption),
        cmocka_unit_test(test_keys),      cmocka_unit_test(test_starttls),
        cmocka_unit_test(test_injection), cmocka_unit_test(test_bad_certificates),
    };

    if (system("openssl version >/dev/null 2>&1") != 0)
        return 77; /* Skipped, to meson. */
    return cmocka_run_group_tests(tests, setup, teardown);
}
