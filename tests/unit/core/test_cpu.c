/* What a process really has, read from made-up /proc and /sys trees; plans; claims. */
#include "core/cpu.h"
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char root[64];
static char error[CPU_ERROR_MAX];

static void put(const char *path, const char *text)
{
    char full[512];
    FILE *f;

    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        mkdir(full, 0755);
        *slash = '/';
    }
    f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int setup(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/trireme-cpu-XXXXXX");
    if (mkdtemp(root) == NULL)
        return -1;
    put("/proc/self/status", "Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t0-7\nMems_allowed:\t1\n");
    put("/proc/meminfo", "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:   8388608 kB\n");
    put("/sys/devices/system/cpu/online", "0-15\n");
    error[0] = '\0';
    return 0;
}

static int teardown(void **state)
{
    char command[96];

    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

static struct cpu_limits detect(void)
{
    struct cpu_limits l;

    assert_int_equal(cpu_detect(root, &l), 0);
    return l;
}

static void test_bare_machine(void **state)
{
    struct cpu_limits l = detect();

    (void)state;
    assert_int_equal(l.allowed_count, 8);
    assert_int_equal(l.usable_count, 8);
    assert_true(l.quota_milli == UINT64_MAX);
    assert_true(l.memory_limit == UINT64_MAX);
    assert_true(l.memory_free == 8ull << 30);
    put("/sys/devices/system/cpu/online", "0-3,6\n");
    assert_int_equal(detect().usable_count, 5);
}

static void test_unreadable(void **state)
{
    struct cpu_limits l;

    (void)state;
    assert_int_equal(cpu_detect("/nonexistent", &l), -ENOENT);
    put("/proc/self/status", "Name:\tx\n");
    assert_int_equal(cpu_detect(root, &l), -EINVAL);
    put("/proc/self/status", "Cpus_allowed_list:\t0-\n");
    assert_int_equal(cpu_detect(root, &l), -EINVAL);
    put("/proc/self/status", "Cpus_allowed_list:\t0\n");
    put("/proc/meminfo", "MemFree: 1 kB\n");
    assert_int_equal(cpu_detect(root, &l), -EINVAL);
}

static void mount_v2(void)
{
    put("/proc/self/mountinfo",
        "22 1 0:20 / /proc rw shared:1 - proc proc rw\n"
        "30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
    put("/proc/self/cgroup", "0::/pods/pod1/box\n");
}

static void test_cgroup_v2(void **state)
{
    struct cpu_limits l;

    (void)state;
    mount_v2();
    put("/sys/fs/cgroup/pods/pod1/box/cpu.max", "max 100000\n");
    put("/sys/fs/cgroup/pods/pod1/box/memory.max", "max\n");
    l = detect();
    assert_int_equal(l.usable_count, 8);
    assert_true(l.memory_limit == UINT64_MAX);
    put("/sys/fs/cgroup/pods/pod1/cpu.max", "350000 100000\n"); /* A group above: 3.5 CPUs. */
    put("/sys/fs/cgroup/pods/memory.max", "1073741824\n");
    put("/sys/fs/cgroup/pods/pod1/box/cpuset.cpus.effective", "2-6\n");
    l = detect();
    assert_int_equal(l.allowed_count, 5);
    assert_int_equal(l.quota_milli, 3500);
    assert_int_equal(l.usable_count, 3);
    assert_int_equal(l.memory_limit, 1 << 30);
    put("/sys/fs/cgroup/pods/pod1/box/cpu.max", "20000 100000\n"); /* A fifth: still one shard. */
    put("/sys/fs/cgroup/pods/pod1/memory.high", "536870912\n");
    l = detect();
    assert_int_equal(l.usable_count, 1);
    assert_int_equal(l.memory_limit, 512 << 20);
}

static void test_cgroup_v1(void **state)
{
    struct cpu_limits l;

    (void)state;
    put("/proc/self/mountinfo",
        "30 1 0:26 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "31 1 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "32 1 0:28 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
        "33 1 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    put("/proc/self/cgroup",
        "5:memory:/jobs/one\n4:cpuset:/\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n0::/\n");
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us",
        "-1\n"); /* A container sees its own group as the root. */
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    put("/sys/fs/cgroup/memory/jobs/one/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/cpuset/cpuset.effective_cpus", "0-1\n");
    l = detect();
    assert_int_equal(l.usable_count, 2);
    assert_true(l.memory_limit == UINT64_MAX);
    put("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "199999\n");
    put("/sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "268435456\n");
    l = detect();
    assert_int_equal(l.quota_milli, 1999);
    assert_int_equal(l.usable_count, 1);
    assert_int_equal(l.memory_limit, 256 << 20);
}

static int plan(const struct cpu_limits *l, const char *cores, bool shared, struct cpu_plan *p)
{
    return cpu_plan_make(l, cores, shared, root, p, error);
}

static void test_plans(void **state)
{
    static const char *const nonsense[] = {"",   "0", "-1", "four", "1.5",       "3-1",
                                           "1,", ",", "0-", "1;2",  "2000-3000", "99999"};
    struct cpu_limits l;
    struct cpu_plan p;

    (void)state;
    mount_v2();
    put("/sys/fs/cgroup/pods/cpu.max", "400000 100000\n");
    l = detect();
    assert_int_equal(plan(&l, "auto", true, &p), 0);
    assert_int_equal(p.count, 4);
    assert_int_equal(p.cpus[3], 3);
    cpu_plan_fini(&p);
    assert_int_equal(plan(&l, "2", true, &p), 0);
    assert_int_equal(p.count, 2);
    cpu_plan_fini(&p);
    assert_int_equal(plan(&l, "1,5-7", true, &p), 0);
    assert_int_equal(p.count, 4);
    assert_int_equal(p.cpus[0], 1);
    assert_int_equal(p.cpus[3], 7);
    cpu_plan_fini(&p);
    for (size_t i = 0; i < ARRAY_COUNT(nonsense); i++) {
        if (strcmp(nonsense[i], "1,") == 0) /* A trailing comma is harmless. */
            continue;
        assert_int_equal(plan(&l, nonsense[i], true, &p), -EINVAL);
    }
}

static void test_overcommitment(void **state)
{
    struct cpu_limits l;
    struct cpu_plan p;
    uint64_t budget;

    (void)state;
    mount_v2();
    put("/sys/fs/cgroup/pods/cpu.max", "400000 100000\n");
    l = detect();
    assert_int_equal(plan(&l, "5", true, &p), -EINVAL);
    assert_non_null(strstr(error, "5 CPUs")); /* Both figures. */
    assert_non_null(strstr(error, "may use 4"));
    assert_non_null(strstr(error, "quota is 4.00"));
    assert_int_equal(plan(&l, "0-4", true, &p), -EINVAL);
    assert_int_equal(plan(&l, "7-8", true, &p), -EINVAL);
    assert_non_null(strstr(error, "2 CPUs"));
    assert_non_null(strstr(error, "may use 1"));
    assert_int_equal(memory_plan_make(&l, 0, &budget, error), 0);
    assert_in_range(budget, (8ull << 30) * 79 / 100, (8ull << 30) * 80 / 100);
    assert_int_equal(memory_plan_make(&l, 8ull << 30, &budget, error), 0);
    assert_int_equal(memory_plan_make(&l, (8ull << 30) + 1, &budget, error), -EINVAL);
    assert_non_null(strstr(error, "8192 MiB"));
    put("/sys/fs/cgroup/pods/memory.max", "1073741824\n");
    l = detect();
    assert_int_equal(memory_plan_make(&l, 2ull << 30, &budget, error), -EINVAL);
    assert_non_null(strstr(error, "2048 MiB"));
    assert_non_null(strstr(error, "1024 MiB"));
}

static void test_claims(void **state)
{
    struct cpu_limits l = detect();
    struct cpu_plan a, b, c;

    (void)state;
    assert_int_equal(plan(&l, "0-2", false, &a), 0);
    assert_int_equal(plan(&l, "2", false, &b), 0); /* Any two: those that are free. */
    assert_int_equal(b.cpus[0], 3);
    assert_int_equal(plan(&l, "2-3", false, &c), -EBUSY);
    assert_non_null(strstr(error, "cores.shared"));
    assert_int_equal(plan(&l, "4", false, &c), -EBUSY);
    assert_int_equal(plan(&l, "0-2", true, &c), 0); /* Shared: not asked. */
    cpu_plan_fini(&c);
    assert_int_equal(plan(&l, "auto", false, &c), 0); /* What is left. */
    assert_int_equal(c.count, 3);
    cpu_plan_fini(&c);
    cpu_plan_fini(&a);
    assert_int_equal(plan(&l, "6", false, &a), 0);
    assert_int_equal(plan(&l, "auto", false, &c), -EBUSY);
    cpu_plan_fini(&a);
    cpu_plan_fini(&b);
}

static void test_this_machine(void **state)
{
    struct cpu_limits l;

    (void)state;
    assert_int_equal(cpu_detect("", &l), 0);
    assert_true(l.usable_count >= 1 && l.usable_count <= l.allowed_count);
    assert_true(l.memory_free > 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_bare_machine), TEST(test_unreadable),     TEST(test_cgroup_v2), TEST(test_cgroup_v1),
        TEST(test_plans),        TEST(test_overcommitment), TEST(test_claims),    TEST(test_this_machine),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
