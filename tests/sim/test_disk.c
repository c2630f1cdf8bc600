/* The disk's model: what was flushed survives, and everything else may be lost in every way there is. */
#include "core/sim/disk.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
/* After the four above. */
#include <cmocka.h>

#define SEEDS 300

struct fixture {
    struct sim_random random;
    struct sim_disk disk;
    uint64_t now_ns;
};

static void begin(struct fixture *f, uint64_t seed)
{
    sim_random_init(&f->random, seed, 0);
    f->now_ns = 1;
    sim_disk_init(&f->disk, &f->random, &f->now_ns);
}

static void end(struct fixture *f)
{
    sim_disk_fini(&f->disk);
}

static struct sim_inode *open_file(struct fixture *f, const char *path)
{
    struct sim_inode *i;

    assert_int_equal(sim_disk_open(&f->disk, path, O_RDWR | O_CREAT, &i), 0);
    return i;
}

static void write_all(struct fixture *f, struct sim_inode *i, char c, size_t size, uint64_t offset)
{
    char *data = malloc(size);

    assert_non_null(data);
    memset(data, c, size);
    assert_int_equal(sim_disk_write(&f->disk, i, data, size, offset), 0);
    free(data);
}

/* Number of bytes `c` in the sector at `at`. */
static unsigned count_in(struct sim_inode *i, char c, uint64_t at)
{
    char data[SIM_SECTOR_SIZE];
    size_t size = sim_disk_read(i, data, sizeof data, at);
    unsigned count = 0;

    for (size_t k = 0; k < size; k++)
        count += data[k] == c;
    return count;
}

static void flush(struct fixture *f, struct sim_inode *i)
{
    sim_stage_commit(&f->disk, sim_disk_stage(i));
}

static void power_keeping(struct fixture *f, struct sim_inode **i, const char *path, enum sim_disk_keep keep,
                          struct sim_disk_loss *loss)
{
    sim_inode_unref(&f->disk, *i);
    sim_disk_power_failure(&f->disk, keep, loss);
    if (sim_disk_open(&f->disk, path, O_RDWR, i) != 0)
        *i = NULL;
}

static void power(struct fixture *f, struct sim_inode **i, const char *path, struct sim_disk_loss *loss)
{
    power_keeping(f, i, path, SIM_KEEP_COUNT, loss);
}

static void test_flushed_survives(void **state)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct sim_disk_loss loss;
        struct sim_inode *i;
        struct fixture f;

        begin(&f, seed);
        i = open_file(&f, "/file");
        assert_int_equal(sim_disk_flush_dir(&f.disk, "/"), 0);
        write_all(&f, i, 'a', 9000, 0);
        flush(&f, i);
        write_all(&f, i, 'b', 3000, 9216); /* Other sectors. */
        power(&f, &i, "/file", &loss);
        assert_non_null(i);
        assert_true(sim_inode_size(i) >= 9000);
        for (uint64_t at = 0; at + SIM_SECTOR_SIZE <= 9000; at += SIM_SECTOR_SIZE)
            assert_int_equal(count_in(i, 'a', at), SIM_SECTOR_SIZE);
        sim_inode_unref(&f.disk, i);
        end(&f);
    }
}

/* Sectors are old or new as a whole; over the seeds all is lost, all is kept, some is torn, some reordered. */
static void test_unflushed_is_anything(void **state)
{
    unsigned none = 0, all = 0, torn = 0, reordered = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct sim_disk_loss loss;
        struct sim_inode *i;
        struct fixture f;

        begin(&f, seed);
        i = open_file(&f, "/file");
        assert_int_equal(sim_disk_flush_dir(&f.disk, "/"), 0);
        write_all(&f, i, 'a', 8192, 0);
        flush(&f, i);
        for (unsigned k = 0; k < 4; k++)
            write_all(&f, i, 'b', 2048, k * 2048);
        power(&f, &i, "/file", &loss);
        assert_non_null(i);
        for (uint64_t at = 0; at < 8192; at += SIM_SECTOR_SIZE)
            assert_int_equal(count_in(i, 'a', at) % SIM_SECTOR_SIZE, 0);
        assert_int_equal(loss.sectors_kept + loss.sectors_lost, 16);
        none += loss.sectors_kept == 0;
        all += loss.sectors_lost == 0;
        torn += loss.torn;
        reordered += loss.reordered;
        sim_inode_unref(&f.disk, i);
        end(&f);
    }
    assert_true(none > SEEDS / 10 && all > SEEDS / 10 && torn > SEEDS / 10 && reordered > SEEDS / 10);
}

/* What is said of a power failure is what the bytes show: four writes of four sectors, first to last or the other way
 * round. */
static void check_loss(struct sim_inode *i, enum sim_disk_keep keep, bool backwards,
                       const struct sim_disk_loss *loss)
{
    bool kept[16], torn = false, reordered = false;
    unsigned count = 0;

    for (unsigned k = 0; k < 16; k++) { /* As they were written. */
        unsigned write = backwards ? 3 - k / 4 : k / 4;

        kept[k] = count_in(i, 'b', write * 2048 + k % 4 * SIM_SECTOR_SIZE) > 0;
        count += kept[k];
        torn = torn || (k % 4 > 0 && kept[k] != kept[k - 1]);
        reordered = reordered || (kept[k] && count < k + 1);
    }
    assert_int_equal(loss->sectors_kept, count);
    assert_int_equal(loss->torn, torn);
    assert_int_equal(loss->reordered, reordered);
    assert_true(keep != SIM_KEEP_NONE || count == 0);
    assert_true(keep != SIM_KEEP_ALL || count == 16);
    assert_true(keep != SIM_KEEP_PREFIX || !reordered);
}

static void test_loss_is_told(void **state)
{
    unsigned torn[SIM_KEEP_COUNT + 1] = {0}, reordered[SIM_KEEP_COUNT + 1] = {0};

    for (unsigned n = 0; n < (SIM_KEEP_COUNT + 1) * SEEDS; n++) {
        enum sim_disk_keep keep = (enum sim_disk_keep)(n % (SIM_KEEP_COUNT + 1));
        bool backwards = n / (SIM_KEEP_COUNT + 1) % 2 > 0;
        struct sim_disk_loss loss;
        struct sim_inode *i;
        struct fixture f;

        begin(&f, n);
        i = open_file(&f, "/file");
        assert_int_equal(sim_disk_flush_dir(&f.disk, "/"), 0);
        write_all(&f, i, 'a', 8192, 0);
        flush(&f, i);
        for (unsigned k = 0; k < 4; k++)
            write_all(&f, i, 'b', 2048, (backwards ? 3 - k : k) * 2048);
        power_keeping(&f, &i, "/file", keep, &loss);
        assert_non_null(i);
        check_loss(i, keep, backwards, &loss);
        torn[keep] += loss.torn;
        reordered[keep] += loss.reordered;
        sim_inode_unref(&f.disk, i);
        end(&f);
    }
    assert_true(torn[SIM_KEEP_PREFIX] > SEEDS / 10 && torn[SIM_KEEP_ANY] > SEEDS / 2);
    assert_true(reordered[SIM_KEEP_ANY] > SEEDS / 2 && reordered[SIM_KEEP_COUNT] > SEEDS / 10);
}

static void test_names(void **state)
{
    unsigned lost = 0, kept = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct sim_disk_loss loss;
        struct sim_inode *i, *j;
        struct fixture f;

        begin(&f, seed);
        i = open_file(&f, "/old");
        write_all(&f, i, 'a', 512, 0);
        flush(&f, i);
        assert_int_equal(sim_disk_flush_dir(&f.disk, "/"), 0);
        j = open_file(&f, "/new");
        write_all(&f, j, 'b', 512, 0);
        flush(&f, j);
        sim_inode_unref(&f.disk, j);
        assert_int_equal(sim_disk_rename(&f.disk, "/new", "/old"), 0);
        assert_int_equal(sim_disk_open(&f.disk, "/new", O_RDWR, &j), -ENOENT);
        power(&f, &i, "/old", &loss); /* A rename replaces, or does not: the name is never gone. */
        assert_non_null(i);
        lost += count_in(i, 'a', 0) == 512;
        kept += count_in(i, 'b', 0) == 512;
        sim_inode_unref(&f.disk, i);
        end(&f);
    }
    assert_int_equal(lost + kept, SEEDS);
    assert_true(lost > SEEDS / 10 && kept > SEEDS / 10);
}

/* A failed flush: the cache may still show it, a later flush succeeds and writes nothing of it, a crash loses it. */
static void test_failed_flush(void **state)
{
    unsigned shown = 0, lost = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        struct sim_disk_loss loss;
        struct sim_inode *i;
        struct fixture f;

        begin(&f, seed);
        i = open_file(&f, "/file");
        assert_int_equal(sim_disk_flush_dir(&f.disk, "/"), 0);
        write_all(&f, i, 'a', 512, 0);
        flush(&f, i);
        write_all(&f, i, 'b', 512, 0);
        sim_stage_fail(&f.disk, sim_disk_stage(i));
        shown += count_in(i, 'b', 0) == 512;
        flush(&f, i);
        power(&f, &i, "/file", &loss);
        assert_non_null(i);
        lost += count_in(i, 'a', 0) == 512;
        sim_inode_unref(&f.disk, i);
        end(&f);
    }
    assert_true(lost > SEEDS / 4 && shown > SEEDS / 2);
}

static void test_write_after_stage(void **state)
{
    struct sim_disk_loss loss;
    struct sim_stage *stage;
    struct sim_inode *i;
    struct fixture f;
    unsigned lost = 0;

    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        begin(&f, seed);
        i = open_file(&f, "/file");
        assert_int_equal(sim_disk_flush_dir(&f.disk, "/"), 0);
        write_all(&f, i, 'a', 512, 0);
        stage = sim_disk_stage(i);
        write_all(&f, i, 'b', 512, 0); /* Too late for this flush. */
        sim_stage_commit(&f.disk, stage);
        assert_int_equal(count_in(i, 'b', 0), 512);
        power(&f, &i, "/file", &loss);
        assert_non_null(i);
        assert_true(count_in(i, 'a', 0) == 512 || count_in(i, 'b', 0) == 512);
        lost += count_in(i, 'a', 0) == 512;
        sim_inode_unref(&f.disk, i);
        end(&f);
    }
    assert_true(lost > SEEDS / 10);
}

static void test_space(void **state)
{
    struct sim_inode *i;
    struct fixture f;

    begin(&f, 1);
    i = open_file(&f, "/file");
    f.disk.capacity = 8192;
    assert_int_equal(sim_disk_allocate(&f.disk, i, 0, 8192), 0);
    assert_int_equal(sim_disk_allocate(&f.disk, i, 0, 8193), -ENOSPC);
    write_all(&f, i, 'a', 8192, 0);
    assert_int_equal(sim_disk_write(&f.disk, i, "x", 1, 8192), -ENOSPC);
    assert_int_equal(sim_disk_truncate(&f.disk, i, 100), 0);
    assert_int_equal(sim_inode_size(i), 100);
    write_all(&f, i, 'b', 1, 600);
    assert_int_equal(count_in(i, 'a', 0), 100); /* What was cut reads as zeros. */
    sim_inode_unref(&f.disk, i);
    end(&f);
}

static void test_rot(void **state)
{
    struct sim_inode *i;
    struct fixture f;
    unsigned good = 0;

    begin(&f, 1);
    assert_int_equal(sim_disk_make_dir(&f.disk, "/a"), 0);
    assert_int_equal(sim_disk_make_dir(&f.disk, "/a/b"), 0);
    i = open_file(&f, "/a/b/file");
    write_all(&f, i, 'a', 4096, 0);
    assert_false(sim_disk_rot(&f.disk, "/", 0)); /* Not durable. */
    flush(&f, i);
    assert_false(sim_disk_rot(&f.disk, "/", 10)); /* Too young. */
    assert_true(sim_disk_rot(&f.disk, "/", 0));
    for (uint64_t at = 0; at < 4096; at += SIM_SECTOR_SIZE)
        good += count_in(i, 'a', at);
    assert_int_equal(good, 4095);
    sim_inode_unref(&f.disk, i);
    end(&f);
}

static void test_paths(void **state)
{
    struct sim_inode *i;
    struct fixture f;

    begin(&f, 1);
    assert_int_equal(sim_disk_make_dir(&f.disk, "/a/b"), -ENOENT);
    assert_int_equal(sim_disk_make_dir(&f.disk, "/a"), 0);
    assert_int_equal(sim_disk_make_dir(&f.disk, "/a"), 0);
    assert_int_equal(sim_disk_open(&f.disk, "/a", O_RDWR, &i), -EISDIR);
    sim_inode_unref(&f.disk, open_file(&f, "/a/./file"));
    assert_int_equal(sim_disk_open(&f.disk, "/a/file/x", O_RDONLY, &i), -ENOTDIR);
    sim_inode_unref(&f.disk, open_file(&f, "/a/file"));
    assert_int_equal(sim_disk_open(&f.disk, "/a/file", O_CREAT | O_EXCL | O_RDWR, &i), -EEXIST);
    assert_int_equal(sim_disk_unlink(&f.disk, "/a"), -EISDIR);
    assert_int_equal(sim_disk_unlink(&f.disk, "/a/file"), 0);
    assert_int_equal(sim_disk_unlink(&f.disk, "/a/file"), -ENOENT);
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flushed_survives),
        cmocka_unit_test(test_unflushed_is_anything),
        cmocka_unit_test(test_loss_is_told),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_failed_flush),
        cmocka_unit_test(test_write_after_stage),
        cmocka_unit_test(test_space),
        cmocka_unit_test(test_rot),
        cmocka_unit_test(test_paths),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
