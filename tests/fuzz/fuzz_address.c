/* Address lists, paths, dates, number sets and mailbox names: the small grammars. */
#include "core/mail/address.h"
#include "core/mail/date.h"
#include "core/mail/mutf7.h"
#include "core/mail/uid_set.h"
#include <stdlib.h>

static void addresses(struct slice input)
{
    char *scratch = malloc(ADDRESS_SCRATCH_SIZE(input.size) + 1);
    struct address_parser parser;
    struct address a;
    size_t count = 0;

    address_parser_init(&parser, input, scratch);
    while (address_next(&parser, &a)) {
        count++;
        ASSERT(a.name.size + a.mailbox.size + a.host.size <= 2 * input.size + 64);
        ASSERT(a.host.data == NULL || a.host.size > 0);
    }
    ASSERT(count <= 2 * input.size + 1);
    free(scratch);
}

static void names(struct slice input)
{
    char *utf8 = malloc(MUTF7_TO_UTF8_SIZE_MAX(input.size)), *back;
    size_t utf8_size, back_size;

    if (mutf7_to_utf8(input, utf8, &utf8_size)) {
        ASSERT(utf8_size <= MUTF7_TO_UTF8_SIZE_MAX(input.size));
        ASSERT(utf8_valid(slice_of(utf8, utf8_size)));
        back = malloc(MUTF7_FROM_UTF8_SIZE_MAX(utf8_size) + 1);
        ASSERT(mutf7_from_utf8(slice_of(utf8, utf8_size), back, &back_size));
        ASSERT(slice_eq(slice_of(back, back_size), input)); /* One way to write a name. */
        free(back);
    }
    back = malloc(MUTF7_FROM_UTF8_SIZE_MAX(input.size) + 1);
    if (mutf7_from_utf8(input, back, &back_size))
        ASSERT(back_size <= MUTF7_FROM_UTF8_SIZE_MAX(input.size));
    (void)mailbox_name_check(input);
    free(back);
    free(utf8);
}

static void sets(struct slice input)
{
    struct heap *heap = heap_create("fuzz", 0);
    struct uid_set set;
    int rc;

    uid_set_init(&set, heap, 64);
    rc = uid_set_parse(&set, input, 100);
    ASSERT((rc == 0 || set.range_count == 0));
    for (uint32_t i = 0; i < set.range_count; i++) {
        ASSERT(set.ranges[i].first <= set.ranges[i].last);
        ASSERT(i == 0 || set.ranges[i].first > set.ranges[i - 1].last + 1);
        ASSERT(uid_set_has(&set, set.ranges[i].first));
    }
    uid_set_fini(&set);
    heap_destroy(heap);
}

static void dates(struct slice input)
{
    struct mail_date date, again;
    char text[64];
    struct writer w;
    int32_t day;

    (void)!date_parse_imap_day(input, &day);
    if (!date_parse_rfc5322(input, &date) && !date_parse_imap_time(input, &date))
        return;
    writer_fixed(&w, text, sizeof text);
    date_write_rfc5322(&w, date);
    if (date.zone_minutes > -5999 && date.zone_minutes < 5999) {
        ASSERT(date_parse_rfc5322(slice_of(text, writer_used(&w)), &again));
        ASSERT(again.utc_s == date.utc_s);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice input = slice_of(data, size), rest = input;
    struct path path;

    addresses(input);
    names(input);
    sets(input);
    dates(input);
    (void)!path_parse(&rest, &path);
    return 0;
}
