#include "roles/hash_password.h"
#include "roles/director/password_scheme.h"
#include <errno.h>
#include <stdio.h>
#include <sys/random.h>
#include <sysexits.h>
#include <termios.h>
#include <unistd.h>

#define LINE_MAX_SIZE (PASSWORD_MAX + 2) /* The end of the line, and NUL. */

/* The line without its end. False: none, or too long. */
static bool line_read(char line[LINE_MAX_SIZE])
{
    size_t size;

    if (fgets(line, LINE_MAX_SIZE, stdin) == NULL)
        return false;
    size = strlen(line);
    if (size > 0 && line[size - 1] == '\n')
        line[--size] = '\0';
    else if (size > PASSWORD_MAX)
        return false;
    return size > 0;
}

static bool terminal_read(const char *prompt, char line[LINE_MAX_SIZE])
{
    struct termios before, quiet;
    bool ok;

    fputs(prompt, stderr);
    if (tcgetattr(STDIN_FILENO, &before) < 0)
        return false;
    quiet = before;
    quiet.c_lflag &= ~(tcflag_t)ECHO;
    (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
    ok = line_read(line);
    (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
    fputc('\n', stderr);
    return ok;
}

static int password_read(char password[LINE_MAX_SIZE])
{
    char again[LINE_MAX_SIZE];
    bool ok, same;

    if (!isatty(STDIN_FILENO))
        ok = same = line_read(password);
    else {
        ok = terminal_read("Password: ", password) && terminal_read("Again: ", again);
        same = ok && strcmp(password, again) == 0;
        bytes_wipe(again, sizeof again);
    }
    if (!ok)
        fprintf(stderr, "trireme hash-password: wants a password of 1 to %d bytes\n", PASSWORD_MAX);
    else if (!same)
        fputs("trireme hash-password: the two passwords differ\n", stderr);
    return same ? 0 : EX_DATAERR;
}

static int hash_print(const char *scheme)
{
    char password[LINE_MAX_SIZE], text[PASSWORD_TEXT_MAX];
    uint8_t salt[16];
    int rc = password_read(password);

    if (rc == 0 && getrandom(salt, sizeof salt, 0) != sizeof salt)
        rc = EX_OSERR;
    if (rc == 0 && password_hash_make(scheme, password, salt, text) < 0) {
        fprintf(
            stderr,
            "trireme hash-password: cannot make a hash of scheme %s; known are CRYPT (the default), PLAIN, "
            "SHA512-CRYPT, SHA256-CRYPT, BLF-CRYPT, MD5-CRYPT, DES-CRYPT, ARGON2ID and ARGON2I\n",
            scheme);
        rc = EX_USAGE;
    }
    if (rc == 0)
        rc = puts(text) < 0 || fflush(stdout) != 0 ? EX_IOERR : 0;
    bytes_wipe(password, sizeof password);
    bytes_wipe(text, sizeof text);
    return rc;
}

int hash_password_main(int argc, char **argv)
{
    const char *scheme = "CRYPT";

    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--scheme=", 9) == 0)
            scheme = argv[i] + 9;
        else if (strcmp(argv[i], "--scheme") == 0 && i + 1 < argc)
            scheme = argv[++i];
        else {
            fputs("usage: trireme hash-password [--scheme S]\n", stderr);
            return EX_USAGE;
        }
    }
    return hash_print(scheme);
}
