#include "core/mail/uid_set.h"

#include <errno.h>

void uid_set_init(struct uid_set *s, struct heap *heap, uint32_t range_count_max)
{
    *s = (struct uid_set){
        .heap = heap,
        .range_count_max = range_count_max != 0 ? range_count_max : UID_SET_RANGE_COUNT_MAX,
    };
}

void uid_set_fini(struct uid_set *s)
{
    if (s->ranges != NULL)
        heap_free(s->heap, s->ranges);
    *s = (struct uid_set){0};
}

void uid_set_clear(struct uid_set *s)
{
    s->range_count = 0;
}

static int grow(struct uid_set *s)
{
    uint32_t capacity;
    void *ranges;

    if (s->range_count < s->range_capacity)
        return 0;
    if (s->range_count >= s->range_count_max)
        return -E2BIG;
    capacity = s->range_capacity == 0 ? 8 : s->range_capacity * 2;
    capacity = MIN(capacity, s->range_count_max);
    ranges = heap_try_realloc(s->heap, s->ranges, capacity * sizeof *s->ranges);
    if (ranges == NULL)
        return -ENOMEM;
    s->ranges = ranges;
    s->range_capacity = capacity;
    return 0;
}

/* Index of the first range whose last number is >= `number`; range_count: none. */
static uint32_t find_range(const struct uid_set *s, uint32_t number)
{
    uint32_t low = 0, high = s->range_count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (s->ranges[middle].last < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Do `a` and the later or overlapping `b` make one range? */
static bool joins(struct uid_range a, struct uid_range b)
{
    return b.first <= a.last || b.first - a.last == 1;
}

int uid_set_add(struct uid_set *s, uint32_t first, uint32_t last)
{
    struct uid_range added = {first, last};
    uint32_t begin, end;
    int rc;

    ASSERT(first > 0);
    ASSERT(first <= last);
    /* The ranges begin..end-1 melt into the added one; a range that ends just before it counts too. */
    if (s->range_count > 0 && s->ranges[s->range_count - 1].last < first - 1)
        begin = s->range_count;
    else
        begin = find_range(s, first - 1);
    for (end = begin; end < s->range_count && joins(added, s->ranges[end]); end++) {
        added.first = MIN(added.first, s->ranges[end].first);
        added.last = MAX(added.last, s->ranges[end].last);
    }
    if (begin == end) {
        rc = grow(s);
        if (rc < 0)
            return rc;
        memmove(s->ranges + begin + 1, s->ranges + begin, (s->range_count - begin) * sizeof *s->ranges);
        s->range_count++;
    } else if (end - begin > 1) {
        memmove(s->ranges + begin + 1, s->ranges + end, (s->range_count - end) * sizeof *s->ranges);
        s->range_count -= end - begin - 1;
    }
    s->ranges[begin] = added;
    return 0;
}

/* One `seq-number` at text->data. `*` gives `star` and *starred. */
static bool parse_number(struct slice *text, uint32_t star, uint32_t *number_out, bool *starred)
{
    uint64_t value = 0;
    size_t size = 0;

    if (text->size > 0 && text->data[0] == '*') {
        *text = slice_from(*text, 1);
        *number_out = star;
        *starred = true;
        return true;
    }
    if (text->size == 0 || text->data[0] < '1' || text->data[0] > '9') /* nz-number: no leading zero. */
        return false;
    while (size < text->size && text->data[size] >= '0' && text->data[size] <= '9') {
        value = value * 10 + (uint64_t)(text->data[size++] - '0');
        if (value > UINT32_MAX)
            return false;
    }
    *text = slice_from(*text, size);
    *number_out = (uint32_t)value;
    return true;
}

/* One item and the comma behind it; false: syntax. *range_out is {0, 0} for an item that names nothing. */
static bool parse_item(struct slice *text, uint32_t star, struct uid_range *range_out)
{
    bool starred = false;
    uint32_t a, b;

    if (!parse_number(text, star, &a, &starred))
        return false;
    b = a;
    if (text->size > 0 && text->data[0] == ':') {
        *text = slice_from(*text, 1);
        if (!parse_number(text, star, &b, &starred))
            return false;
    }
    if (text->size > 0) {
        if (text->data[0] != ',' || text->size == 1)
            return false;
        *text = slice_from(*text, 1);
    }
    *range_out = (struct uid_range){MIN(a, b), MAX(a, b)};
    if (starred && star == 0)
        *range_out = (struct uid_range){0, 0};
    return true;
}

bool uid_set_syntax_valid(struct slice text)
{
    struct uid_range range;

    if (text.size == 0)
        return false;
    while (text.size > 0)
        if (!parse_item(&text, 1, &range))
            return false;
    return true;
}

static void sift_down(struct uid_range *a, uint32_t root, uint32_t count)
{
    for (;;) {
        uint32_t child = root * 2 + 1;
        struct uid_range kept = a[root];

        if (child >= count)
            return;
        if (child + 1 < count && a[child + 1].first > a[child].first)
            child++;
        if (a[child].first <= kept.first)
            return;
        a[root] = a[child];
        a[child] = kept;
        root = child;
    }
}

/* In place, without recursion, n log n whatever the order: the peer chose it. */
static void sort_ranges(struct uid_range *a, uint32_t count)
{
    for (uint32_t i = count / 2; i-- > 0;)
        sift_down(a, i, count);
    while (count > 1) {
        struct uid_range largest = a[0];

        count--;
        a[0] = a[count];
        a[count] = largest;
        sift_down(a, 0, count);
    }
}

static void sort_and_merge(struct uid_set *s)
{
    uint32_t kept = 0;

    if (s->range_count == 0)
        return;
    sort_ranges(s->ranges, s->range_count);
    for (uint32_t i = 1; i < s->range_count; i++) {
        if (joins(s->ranges[kept], s->ranges[i]))
            s->ranges[kept].last = MAX(s->ranges[kept].last, s->ranges[i].last);
        else
            s->ranges[++kept] = s->ranges[i];
    }
    s->range_count = kept + 1;
}

int uid_set_parse(struct uid_set *s, struct slice text, uint32_t star)
{
    bool sorted = true;

    if (!uid_set_syntax_valid(text))
        return -EINVAL;
    while (text.size > 0) {
        struct uid_range range;
        int rc;

        if (!parse_item(&text, star, &range) || range.first == 0)
            continue; /* Valid: it names nothing. */
        rc = grow(s);
        if (rc < 0) {
            uid_set_clear(s);
            return rc;
        }
        if (s->range_count > 0) {
            struct uid_range previous = s->ranges[s->range_count - 1];

            sorted = sorted && range.first > previous.last && !joins(previous, range);
        }
        s->ranges[s->range_count++] = range;
    }
    if (!sorted)
        sort_and_merge(s);
    return 0;
}

bool uid_set_has(const struct uid_set *s, uint32_t number)
{
    uint32_t i = find_range(s, number);

    return number != 0 && i < s->range_count && s->ranges[i].first <= number;
}

uint64_t uid_set_count(const struct uid_set *s)
{
    uint64_t count = 0;

    for (uint32_t i = 0; i < s->range_count; i++)
        count += (uint64_t)s->ranges[i].last - s->ranges[i].first + 1;
    return count;
}

void uid_set_iter_init(struct uid_set_iter *it, const struct uid_set *s)
{
    *it = (struct uid_set_iter){.set = s};
}

bool uid_set_iter_next(struct uid_set_iter *it, uint32_t *number_out)
{
    const struct uid_range *range;

    if (it->range_index >= it->set->range_count)
        return false;
    range = &it->set->ranges[it->range_index];
    if (it->next < range->first)
        it->next = range->first;
    *number_out = (uint32_t)it->next++;
    if (it->next > range->last)
        it->range_index++;
    return true;
}

void uid_range_write(struct uid_range range, struct writer *w)
{
    writer_u64(w, range.first);
    if (range.last != range.first) {
        writer_char(w, ':');
        writer_u64(w, range.last);
    }
}

void uid_set_write(const struct uid_set *s, struct writer *w)
{
    for (uint32_t i = 0; i < s->range_count; i++) {
        if (i > 0)
            writer_char(w, ',');
        uid_range_write(s->ranges[i], w);
    }
}
