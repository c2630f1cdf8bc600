"""What a core file of a process would hold, and what none would: its memory, read as root from outside."""
import os
import re
import struct
import subprocess
import tempfile

import mail

BUILD = os.environ.get("TEST_BUILD", os.path.join(mail.ROOT, "build"))
PAGE = 4096
AT_ONCE = 1 << 24


def regions(pid):
    """(first byte, end, name, flags) of each that can be read."""
    with open(f"/proc/{pid}/smaps") as f:
        for part in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", f.read(), flags=re.M)[1:]:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) (r?)\S+ \S+ \S+ \S+ *(.*)", part)
            flags = re.search(r"^VmFlags: (.*)$", part, re.M)[1].split()
            if head[3] and "io" not in flags and not head[4].startswith("[v"):
                yield int(head[1], 16), int(head[2], 16), head[4], flags


def pages(pid, begin, end):
    """Runs of pages that there are."""
    with open(f"/proc/{pid}/pagemap", "rb") as f:
        f.seek(begin // PAGE * 8)
        there = [entry[0] >> 62 for entry in struct.iter_unpack("<Q", f.read((end - begin) // PAGE * 8))] + [0]
    run = None
    for i, is_there in enumerate(there):
        if is_there and run is None:
            run = i
        elif not is_there and run is not None:
            for at in range(begin + run * PAGE, begin + i * PAGE, AT_ONCE):
                yield at, min(AT_ONCE, begin + i * PAGE - at)
            run = None


def find(pid, patterns, dumped, before=48, behind=80):
    """{pattern: (address, name, bytes around)}, each once, in what a core file shows, or in what it does not show."""
    runs, at_all = [], 0
    patterns = list(patterns)
    command = [os.path.join(BUILD, "tests", "sandbox", "memory_find"), *(p.hex() for p in patterns)]
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory, \
            tempfile.TemporaryFile() as out, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out) as finder:
        for begin, end, name, flags in regions(pid):
            if ("dd" not in flags) != dumped:
                continue
            for at, size in pages(pid, begin, end):
                try:
                    memory.seek(at)
                    data = memory.read(size)
                except OSError:
                    continue
                finder.stdin.write(data)
                runs.append((at_all, at, name))
                at_all += len(data)
        finder.stdin.close()
        assert finder.wait() == 0
        out.seek(0)
        found = {}
        for line in out.read().splitlines():
            offset, index = map(int, line.split())
            begin, at, name = next(r for r in reversed(runs) if r[0] <= offset)
            address = at + offset - begin
            memory.seek(address - before)
            found.setdefault(patterns[index], (hex(address), name, memory.read(before + behind)))
    return found
