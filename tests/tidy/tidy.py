#!/usr/bin/env python3
"""Checks that no compiler makes: tests/tidy/tidy.py [--root DIR] [--build DIR] [--self-test]

  arrows     roles -> {net, storage} -> core; net and storage never include one another
  door       outside core/: no clock, socket, file, random, memory, thread or blocking call of libc
  globals    outside core/: no object in .data or .bss (the simulator runs many nodes in one process)
  binaries   nothing in build/ links OpenSSL, which crashes beside BoringSSL
  settings   every supported key of the configuration is read somewhere and documented, every key that is read is in
             the table
  words      no unfinished business in the sources; headers begin with #pragma once and a comment

Prints one line a fault, FILE:LINE: what; exit 1 if there is any. --self-test plants each kind and looks for it.
"""
import argparse
import os
import re
import subprocess
import sys
import tempfile

MAY_INCLUDE = {
    "core": {"core"},
    "net": {"core", "net"},
    "storage": {"core", "storage"},
    "roles": {"core", "net", "storage", "roles"},
}
# Roles speak by link frames: these folders are what they share.
ROLES_SHARED = {"words", "session"}

BANNED = {
    "clock": "clock_gettime clock_nanosleep gettimeofday time nanosleep usleep sleep alarm setitimer timer_create "
             "localtime localtime_r gmtime gmtime_r mktime strftime ctime",
    "socket": "socket socketpair bind listen accept accept4 connect send sendto sendmsg recv recvfrom recvmsg shutdown "
              "setsockopt getsockopt getaddrinfo gethostbyname getnameinfo poll ppoll select epoll_create1 epoll_wait "
              "eventfd pipe pipe2",
    "file": "open openat creat fopen fdopen read pread readv write pwrite writev close fclose fread fwrite stat fstat "
            "lstat statx unlink unlinkat rename renameat link symlink mkdir mkdirat rmdir opendir readdir ftruncate "
            "truncate fsync fdatasync fallocate posix_fallocate flock lockf mmap munmap chdir chown chmod",
    "random": "rand srand random srandom rand_r drand48 getrandom getentropy arc4random RAND_bytes",
    "memory": "malloc calloc realloc free strdup strndup asprintf vasprintf posix_memalign aligned_alloc alloca "
              "OPENSSL_malloc",
    "output": "printf vprintf fprintf vfprintf puts putchar fputs perror syslog dprintf",
    "process": "fork vfork execve execv execvp system popen waitpid kill raise signal sigaction pthread_create "
               "pthread_mutex_lock pthread_cond_wait mtx_lock sem_wait getenv setenv setlocale iconv_open dlopen",
}
# Who may, and why.
EXCEPTIONS = {
    "roles/main.c": ({"output"}, "the start of the process, before there is a shard"),
    "roles/options.c": ({"output", "memory"}, "the start of the process, before there is a shard"),
    "roles/identity.c": ({"file"}, "the start of the process, before there is a shard"),
    "roles/confinement.c": ({"output", "memory"}, "the start of the process, before there is a shard"),
    "roles/server.c": ({"file", "output"}, "the first thread, which is no shard"),
    "roles/process.c": ({"file", "process"}, "the start of the process, before there is a shard"),
    "roles/supervisor/handover.c": ({"file", "socket", "memory"}, "the first thread of supervisor or server, which is no shard"),
    "roles/supervisor/plan.c": ({"clock", "file", "memory", "output"}, "the supervisor has no shard"),
    "roles/supervisor/child.c": ({"file", "memory", "output", "process", "socket"}, "the supervisor has no shard"),
    "roles/supervisor/succession.c": ({"clock", "file", "memory", "socket"}, "the supervisor has no shard"),
    "roles/supervisor/supervisor.c": ({"file", "output", "process", "socket"}, "the supervisor has no shard"),
    "roles/ctl.c": ({"clock", "file", "output", "socket"}, "a short process without a shard that asks the server"),
    "roles/ctl_certificates.c": ({"file", "output"}, "an operator's command without a shard"),
    "roles/hash_password.c": ({"file", "output", "random"}, "an operator's command without a shard"),
    "roles/director/password_scheme.c": ({"memory"}, "crypt_ra() gives memory that the caller frees"),
}

WORDS = re.compile(r"\b(TODO|FIXME|XXX|HACK|placeholder|unimplemented|not yet implemented)\b", re.I)
SOURCE_FOLDERS = ("core", "net", "storage", "roles", "bench", "tests", "deploy")
SETTING_CALL = re.compile(r'\bconfig_(bool|u64|size|duration_ms|string|list_count|list_item|record_count|record_field'
                          r'|is_set)\(\s*[^,"]+,\s*"([a-z0-9_.]+)"')
SETTING_NAME = re.compile(r'^\s*\{"([a-z0-9_.]+)",\s*CONFIG_([A-Z0-9]+)', re.M)

banned_call = {kind: re.compile(r"(?<![\w.>*])(" + "|".join(names.split()) + r")\s*\(")
               for kind, names in BANNED.items()}


def strip(text):
    """Comments and the insides of strings become blanks; lines stay where they are."""
    def blank(match):
        s = match.group(0)
        keep = s[0] if s[0] in "\"'" else " "
        return keep + re.sub(r"[^\n]", " ", s[1:-1]) + keep
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text, flags=re.S)


def sources(root, folders, suffixes):
    for folder in folders:
        for where, dirs, files in os.walk(os.path.join(root, folder)):
            dirs.sort()
            for name in sorted(files):
                if name.endswith(suffixes):
                    path = os.path.join(where, name)
                    yield os.path.relpath(path, root), path


def read(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read()


def line_of(text, at):
    return text.count("\n", 0, at) + 1


def check_arrows(root):
    for name, path in sources(root, MAY_INCLUDE, (".c", ".h")):
        parts = name.split(os.sep)
        text = read(path)
        for match in re.finditer(r'^\s*#\s*include\s+"([^"]+)"', text, re.M):
            target = match.group(1)
            where = f"{name}:{line_of(text, match.start())}"
            to = target.split("/")
            if to[0] not in MAY_INCLUDE:
                yield f'{where}: includes "{target}", which is not written from the root, or not ours to use'
            elif to[0] not in MAY_INCLUDE[parts[0]]:
                yield f'{where}: {parts[0]} must not include "{target}"'
            elif (parts[0] == "roles" and to[0] == "roles" and len(parts) > 2 and len(to) > 2 and parts[1] != to[1]
                  and to[1] not in ROLES_SHARED):
                yield f'{where}: role {parts[1]} must not include "{target}" of role {to[1]}'


def check_door(root):
    for name, path in sources(root, ("net", "storage", "roles"), (".c", ".h")):
        text = strip(read(path))
        allowed = EXCEPTIONS.get(name, (set(), ""))[0]
        for kind, pattern in banned_call.items():
            if kind in allowed:
                continue
            for match in pattern.finditer(text):
                line_start = text.rfind("\n", 0, match.start()) + 1
                before = text[line_start:match.start()]
                if re.search(r"\b(struct|enum|int|void|bool|size_t|ssize_t|char|unsigned|static)\s+\**$", before):
                    continue  # A declaration of our own.
                yield f"{name}:{line_of(text, match.start())}: {kind}: {match.group(1)}() outside core/"


def check_words(root):
    for name, path in sources(root, SOURCE_FOLDERS, (".c", ".h", ".py", ".sh", ".S", ".build")):
        if name == os.path.join("tests", "tidy", "tidy.py"):
            continue
        text = read(path)
        for match in WORDS.finditer(text):
            yield f"{name}:{line_of(text, match.start())}: '{match.group(0)}'"
        if name.endswith(".h"):
            if "#pragma once" not in text:
                yield f"{name}:1: no #pragma once"
            if not text.startswith("/*"):
                yield f"{name}:1: begins without a comment that says what it is"


def check_settings(root):
    table = os.path.join(root, "roles", "settings.c")
    if not os.path.exists(table):
        return
    text = read(table)
    known = {m.group(1): (m.group(2), line_of(text, m.start())) for m in SETTING_NAME.finditer(text)}
    used = {}
    for name, path in sources(root, ("core", "net", "storage", "roles"), (".c",)):
        source = read(path)
        for match in SETTING_CALL.finditer(source):
            used.setdefault(match.group(2), f"{name}:{line_of(source, match.start())}")
        for match in re.finditer(r'"([a-z0-9_]+\.listen)"', source) if name != "roles/settings.c" else ():
            used.setdefault(match.group(1), f"{name}:{line_of(source, match.start())}")
    for key, (kind, line) in known.items():
        if kind != "UNSUPPORTED" and key not in used:
            yield f"roles/settings.c:{line}: {key}: nothing reads this key"
    manual = os.path.join(root, "docs", "configuration.md")
    manual = read(manual) if os.path.exists(manual) else ""
    for key, (kind, line) in known.items():
        if kind != "UNSUPPORTED" and not re.search(r"(?<![\w.])" + re.escape(key) + r"(?![\w])", manual):
            yield f"roles/settings.c:{line}: {key}: not in docs/configuration.md"
    for key, where in used.items():
        if key not in known or known[key][0] == "UNSUPPORTED":
            yield f"{where}: {key}: read, but not in roles/settings.c"


def check_globals(root, build):
    """Objects of net, storage and roles with something in .data or .bss."""
    for name, path in sources(build, ("net", "storage", "roles"), (".o",)):
        if "main.c.o" in name:
            continue
        table = subprocess.run(["objdump", "-t", path], capture_output=True, text=True, check=True).stdout
        for line in table.splitlines():
            match = re.match(r"^[0-9a-f]+ .{7} (\.data|\.bss|\.tdata|\.tbss|\.data\.[^r]\S*|\.bss\.\S*|COM)\s+([0-9a-f]+) (\S+)",
                             line)
            if match and int(match.group(2), 16) > 0 and not match.group(3).startswith((".", "__")):
                yield f"{name}: {match.group(3)}: a mutable global outside core/"


def openssl_in(name, libraries):
    """`libraries` as ldd prints them. BoringSSL's files have no number that OpenSSL ever had."""
    for match in re.finditer(r"lib(ssl|crypto)\.so\.[1-9][0-9.]* => (\S+)", libraries):
        if "android" not in match.group(2):
            yield f"{name}: links {match.group(0)}"


def check_binaries(build):
    for name in sorted(os.listdir(build)):
        path = os.path.join(build, name)
        if not (os.path.isfile(path) and os.access(path, os.X_OK) and name.startswith("trireme")):
            continue
        libraries = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        yield from openssl_in(name, libraries)


def faults(root, build=None):
    found = []
    for check in (check_arrows, check_door, check_words, check_settings):
        found += check(root)
    if build:
        found += check_binaries(build)
        found += check_globals(root, build)
    return found


PLANTED = [
    ("core/a.c", '#include "net/b.h"\n', "core must not include"),
    ("net/a.c", '#include "storage/b.h"\n', "net must not include"),
    ("storage/a.c", '#include "net/b.h"\n', "storage must not include"),
    ("storage/a.c", '#include "roles/b.h"\n', "storage must not include"),
    ("net/a.c", '#include "b.h"\n', "not written from the root"),
    ("roles/proxy/a.c", '#include "roles/backend/b.h"\n', "role proxy must not include"),
    ("net/a.c", "int f(void)\n{\n    return clock_gettime(0, 0);\n}\n", "net/a.c:3: clock"),
    ("net/a.c", "void f(void)\n{\n    send(1, 0, 0, 0);\n}\n", "socket: send"),
    ("storage/a.c", "void f(void)\n{\n    x = open(name, 0);\n}\n", "file: open"),
    ("storage/a.c", "void f(void)\n{\n    getrandom(p, 8, 0);\n}\n", "random: getrandom"),
    ("storage/a.c", "void f(void)\n{\n    p = malloc(8);\n}\n", "memory: malloc"),
    ("roles/a.c", "void f(void)\n{\n    fprintf(stderr, 0);\n}\n", "output: fprintf"),
    ("roles/a.c", "void f(void)\n{\n    pthread_mutex_lock(&m);\n}\n", "process: pthread_mutex_lock"),
    ("net/a.c", "/* TO" "DO */\n", "'TO" "DO'"),
    ("net/a.h", "/* a */\nint a;\n", "no #pragma once"),
    ("roles/settings.c", 'x = {\n    {"a.b", CONFIG_BOOL, "true", ""},\n};\n', "a.b: nothing reads this key"),
    ("roles/settings.c", 'x = {\n    {"a.b", CONFIG_BOOL, "true", ""},\n};\n', "a.b: not in docs/configuration.md"),
    ("roles/settings.c", 'y = config_bool(c, "c.d");\n', "c.d: read, but not in"),
]
INNOCENT = [
    ("net/a.c", '/* open( */ const char *s = "malloc("; void f(void)\n{\n    file_open(x);\n    p->read(x);\n    o.send(1);\n}\n'),
    ("roles/proxy/a.c", '#include "roles/words/b.h"\n#include "net/b.h"\n#include "storage/c.h"\n'),
    ("roles/main.c", "void f(void)\n{\n    printf(x);\n}\n"),
]


def plant(files):
    with tempfile.TemporaryDirectory() as root:
        for name, text in files:
            os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
            with open(os.path.join(root, name), "w", encoding="utf-8") as f:
                f.write(text)
        return faults(root)


GLOBALS = """static const char *const names[] = {"a", "b"};
static int counter;
int set_before = 7;
_Thread_local int of_thread;
const char *planted(int i);
const char *planted(int i) { return names[(i + ++counter + set_before + ++of_thread) % 2]; }
"""


def self_test_globals():
    with tempfile.TemporaryDirectory() as root:
        os.makedirs(os.path.join(root, "net"))
        subprocess.run(["cc", "-O0", "-fPIE", "-xc", "-c", "-o", os.path.join(root, "net", "a.c.o"), "-"], input=GLOBALS,
                       text=True, check=True)
        found = " ".join(check_globals(root, root))
    bad = [f"planted, not found: global {name}" for name in ("counter", "set_before", "of_thread") if name not in found]
    return bad + (["innocent, but found: constants"] if "names" in found else [])


def self_test():
    bad = []
    for name, text, expected in PLANTED:
        found = plant([(name, text)])
        if not any(expected in fault for fault in found):
            bad.append(f"planted in {name}, not found: {expected} (found: {found})")
    if not list(openssl_in("x", "\tlibssl.so.3 => /lib/x86_64-linux-gnu/libssl.so.3 (0x1)\n")):
        bad.append("planted: OpenSSL, not found")
    if list(openssl_in("x", "\tlibssl.so.0 => /usr/lib/x86_64-linux-gnu/android/libssl.so.0 (0x1)\n")):
        bad.append("innocent, but found: BoringSSL")
    bad += self_test_globals()
    for name, text in INNOCENT:
        found = plant([(name, text)])
        if found:
            bad.append(f"innocent, but found: {found}")
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    parser.add_argument("--build")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        found = self_test()
    else:
        found = faults(os.path.normpath(arguments.root), arguments.build)
    for fault in found:
        print(fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
