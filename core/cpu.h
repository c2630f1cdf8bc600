/* core/cpu.h -- which CPUs and how much memory the process really has, and what it takes of them (I-1: never
 * more).
 *
 * CPUs: affinity, within the cpuset, within the CPU quota of every control group above the process (version 1
 * and 2), the quota rounded down, at least 1.
 * Memory: the tightest of these groups' limits and what the machine has free.
 *
 * A CPU belongs to one Trireme process: a shard spins on nothing, but two pinned threads on one CPU make each
 * other late. The claim is a lock (flock(2)) on a file per CPU, held for the process's life, in the first of
 * these directories that can be written: /run/trireme/cpu, $XDG_RUNTIME_DIR/trireme/cpu, /tmp/trireme-cpu.
 * Processes that do not see the same directory (containers, users without rights on /run) do not see each
 * other's claims; there the control group's limits say who has what. `cores.shared` turns claims off.
 *
 * Owner:  the process's first thread, before any shard; blocking calls.
 * Errors: -errno and one line that names what was asked for and what there is; the caller exits with
 *         EX_CONFIG. */
#pragma once
#include "core/base.h"

#define CPU_NUMBER_MAX 1024 /* CPUs 0 .. 1023. */
#define CPU_ERROR_MAX  512

struct cpu_set_bits {
    uint64_t words[CPU_NUMBER_MAX / 64];
};

struct cpu_limits {
    struct cpu_set_bits allowed; /* Affinity, cpuset, online. */
    unsigned allowed_count;
    uint64_t quota_milli;  /* Thousandths of a CPU; UINT64_MAX: no quota. */
    unsigned usable_count; /* What all of it comes to: at least 1. */
    uint64_t memory_limit; /* Tightest limit of a control group; UINT64_MAX: none. */
    uint64_t memory_free;  /* Of the machine. */
};

/* Reads /proc and /sys below `root` ("" for the machine itself; tests give a directory). */
MUST_CHECK int cpu_detect(const char *root, struct cpu_limits *limits_out);

/* Is it written as `cores` may be, whatever CPUs there are? If not, it is not CPU_CORES_WANTED. */
bool cpu_cores_valid(const char *cores);
#define CPU_CORES_WANTED "auto, a number of shards, or a list of CPUs such as 0-3,8"

struct cpu_plan {
    unsigned count;
    unsigned *cpus; /* One shard each, ascending. */
    int *claims;    /* Descriptors that hold the locks; -1: none. */
};

/* `cores` is "auto" (all that are usable and not claimed), a number of shards, or a list such as "0-3,8".
 * claim_dir NULL: as above. 0, -EINVAL (not understood, or more than there is), -EBUSY (claimed by others),
 * or -errno. */
MUST_CHECK int cpu_plan_make(const struct cpu_limits *limits, const char *cores, bool shared,
                             const char *claim_dir, struct cpu_plan *plan_out, char error_out[CPU_ERROR_MAX]);
/* Gives the claims back. */
void cpu_plan_fini(struct cpu_plan *plan);

/* `wanted` 0: auto, 80 % of what there is. */
MUST_CHECK int memory_plan_make(const struct cpu_limits *limits, uint64_t wanted, uint64_t *budget_out,
                                char error_out[CPU_ERROR_MAX]);
