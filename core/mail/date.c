#include "core/mail/date.h"
#include "core/mail/token.h"

#define DAY_S ((int64_t)24 * 60 * 60)

static const char month_names[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
static const char weekday_names[] = "SunMonTueWedThuFriSat";

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

int32_t date_local_day(struct mail_date date)
{
    int64_t day = floor_div(date.utc_s, DAY_S); /* Before the zone: utc_s may be near its ends. */
    int64_t of_day = (date.utc_s % DAY_S + DAY_S) % DAY_S + date.zone_minutes * 60;

    day += floor_div(of_day, DAY_S);
    return (int32_t)MAX(INT32_MIN, MIN(INT32_MAX, day));
}

struct moment { /* Numbers as read. */
    uint32_t year, month, day, hour, minute, second;
    int32_t zone_minutes;
};

static bool moment_to_date(const struct moment *m, struct mail_date *date_out)
{
    struct civil_date civil = {(int32_t)m->year, (uint8_t)m->month, (uint8_t)m->day}, again;
    int32_t days;

    if (m->year < 1900 || m->year > 9999 || m->month < 1 || m->month > 12 || m->day < 1 || m->day > 31)
        return false;
    if (m->hour > 23 || m->minute > 59 || m->second > 60) /* A leap second is the next minute's first. */
        return false;
    days = civil_to_days(civil);
    again = civil_from_days(days);
    if (again.month != m->month || again.day != m->day) /* 30 February. */
        return false;
    date_out->utc_s = days * DAY_S + m->hour * 3600 + m->minute * 60 + m->second - m->zone_minutes * 60;
    date_out->zone_minutes = (int16_t)m->zone_minutes;
    return true;
}

/* All of `text`: digit_count_min to digit_count_max digits. */
static bool parse_digits(struct slice text, size_t digit_count_min, size_t digit_count_max, uint32_t *out)
{
    uint64_t value;

    if (text.size < digit_count_min || text.size > digit_count_max || !slice_to_u64(text, 99999999, &value))
        return false;
    *out = (uint32_t)value;
    return true;
}

static bool parse_month(struct slice text, uint32_t *out)
{
    if (text.size < 3)
        return false;
    for (uint32_t i = 0; i < 12; i++) {
        if (!slice_eq_nocase(slice_first(text, 3), slice_of(month_names + i * 3, 3)))
            continue;
        *out = i + 1;
        return true;
    }
    return false;
}

static bool parse_zone_digits(struct slice text, int32_t *minutes_out)
{
    uint32_t value;

    if (text.size != 5 || (text.data[0] != '+' && text.data[0] != '-'))
        return false;
    if (!parse_digits(slice_from(text, 1), 4, 4, &value))
        return false;
    *minutes_out = (int32_t)(value / 100 * 60 + value % 100);
    if (text.data[0] == '-')
        *minutes_out = -*minutes_out;
    return true;
}

/* RFC 5322 4.3. Military letters mean what they meant, as in Dovecot. Whatever else is there is UTC. */
static int32_t parse_zone(struct slice text)
{
    static const struct {
        char name[4];
        int8_t hours;
    } zones[] = {
        {"EDT", -4}, {"EST", -5}, {"CDT", -5}, {"CST", -6},
        {"MDT", -6}, {"MST", -7}, {"PDT", -7}, {"PST", -8},
    };
    int32_t minutes;

    if (parse_zone_digits(text, &minutes))
        return minutes;
    for (size_t i = 0; i < ARRAY_COUNT(zones); i++)
        if (slice_eq_nocase(text, slice_of(zones[i].name, 3)))
            return zones[i].hours * 60;
    if (text.size == 1) {
        char c = text.data[0] & ~0x20;

        if (c >= 'A' && c <= 'I')
            return (c - 'A' + 1) * 60;
        if (c >= 'K' && c <= 'M')
            return (c - 'A') * 60;
        if (c >= 'N' && c <= 'Y')
            return ('M' - c) * 60;
    }
    return 0;
}

/* The next atom; empty: there is none. A date's atoms are short, so longer ones are cut to what no rule
 * takes. */
struct date_token {
    char data[16];
    struct slice text;
};

static void next_token(struct token_reader *r, struct date_token *t)
{
    struct text_buffer buffer = {t->data, 0, sizeof t->data};

    (void)token_atom(r, &buffer);
    t->text = text_slice(&buffer);
}

/* `:` or, as some write, `.`. */
static bool take_time_separator(struct token_reader *r)
{
    if (token_peek(r) != ':' && token_peek(r) != '.')
        return false;
    r->at++;
    (void)token_skip_blanks(r);
    return true;
}

static bool parse_year(struct slice text, uint32_t *year_out)
{
    if (!parse_digits(text, 2, 4, year_out))
        return false;
    if (text.size == 2)
        *year_out += *year_out < 70 ? 2000 : 1900;
    else if (text.size == 3) /* RFC 5322 4.3: years since 1900, written by broken programs in 2000. */
        *year_out += 1900;
    return true;
}

static bool parse_clock(struct token_reader *r, struct moment *m)
{
    struct date_token t;

    next_token(r, &t);
    if (!parse_digits(t.text, 1, 2, &m->hour) || !take_time_separator(r))
        return false;
    next_token(r, &t);
    if (!parse_digits(t.text, 2, 2, &m->minute))
        return false;
    if (!take_time_separator(r))
        return true;
    next_token(r, &t);
    return parse_digits(t.text, 2, 2, &m->second);
}

bool date_parse_rfc5322(struct slice text, struct mail_date *date_out)
{
    struct token_reader r = {.at = text.data, .end = text.data + text.size};
    struct moment m = {0};
    struct date_token t;

    if (text.size == 0 || token_skip_blanks(&r) != TOKEN_MORE)
        return false;
    next_token(&r, &t);
    if (t.text.size >= 3) { /* A weekday, which nobody checks. */
        if (token_peek(&r) == ',')
            r.at++;
        (void)token_skip_blanks(&r);
        next_token(&r, &t);
    }
    if (!parse_digits(t.text, 1, 2, &m.day))
        return false;
    next_token(&r, &t);
    if (!parse_month(t.text, &m.month))
        return false;
    next_token(&r, &t);
    if (!parse_year(t.text, &m.year) || !parse_clock(&r, &m))
        return false;
    next_token(&r, &t);
    m.zone_minutes = parse_zone(t.text);
    return moment_to_date(&m, date_out);
}

/* `1-Feb-1994` at the beginning of *text, which moves behind it. */
static bool take_imap_day(struct slice *text, struct moment *m)
{
    size_t dash = slice_find(*text, '-');

    if (!parse_digits(slice_first(*text, dash), 1, 2, &m->day) || text->size - dash < 9)
        return false;
    *text = slice_from(*text, dash + 1);
    if (text->data[3] != '-' || !parse_month(slice_first(*text, 3), &m->month))
        return false;
    if (!parse_digits(slice_of(text->data + 4, 4), 4, 4, &m->year))
        return false;
    *text = slice_from(*text, 8);
    return true;
}

bool date_parse_imap_day(struct slice text, int32_t *day_out)
{
    struct moment m = {0};
    struct mail_date date;

    if (!take_imap_day(&text, &m) || text.size != 0 || !moment_to_date(&m, &date))
        return false;
    *day_out = date_local_day(date);
    return true;
}

bool date_parse_imap_time(struct slice text, struct mail_date *date_out)
{
    struct moment m = {0};

    if (text.size > 0 && text.data[0] == ' ')
        text = slice_from(text, 1);
    if (!take_imap_day(&text, &m) || text.size != 15)
        return false;
    if (text.data[0] != ' ' || text.data[3] != ':' || text.data[6] != ':' || text.data[9] != ' ')
        return false;
    if (!parse_digits(slice_of(text.data + 1, 2), 2, 2, &m.hour) ||
        !parse_digits(slice_of(text.data + 4, 2), 2, 2, &m.minute) ||
        !parse_digits(slice_of(text.data + 7, 2), 2, 2, &m.second) ||
        !parse_zone_digits(slice_of(text.data + 10, 5), &m.zone_minutes))
        return false;
    return moment_to_date(&m, date_out);
}

static char *put_digits(char *at, uint32_t value, uint32_t digit_count)
{
    for (uint32_t i = digit_count; i-- > 0; value /= 10)
        at[i] = (char)('0' + value % 10);
    return at + digit_count;
}

static char *put_text(char *at, const char *text, size_t size)
{
    memcpy(at, text, size);
    return at + size;
}

struct written_date { /* What both formats need. */
    struct civil_date civil;
    uint32_t weekday, second_of_day, zone; /* zone as the number 0..9959. */
    bool zone_negative;
};

static struct written_date split(struct mail_date date)
{
    const int32_t day_min = civil_to_days((struct civil_date){0, 1, 1});
    const int32_t day_max = civil_to_days((struct civil_date){9999, 12, 31});
    int32_t zone = MAX(-5999, MIN(5999, date.zone_minutes));
    int32_t zone_size = zone < 0 ? -zone : zone;
    int64_t local_s;
    int32_t day;

    date.utc_s = MAX((day_min + 5) * DAY_S, MIN((day_max - 5) * DAY_S, date.utc_s));
    local_s = date.utc_s + zone * 60;
    day = (int32_t)floor_div(local_s, DAY_S);
    return (struct written_date){
        .civil = civil_from_days(day),
        .weekday = (uint32_t)(((day + 4) % 7 + 7) % 7), /* 1970-01-01 was a Thursday. */
        .second_of_day = (uint32_t)(local_s - day * DAY_S),
        .zone = (uint32_t)(zone_size / 60 * 100 + zone_size % 60),
        .zone_negative = zone < 0,
    };
}

static char *put_clock_and_zone(char *at, const struct written_date *d)
{
    *at++ = ' ';
    at = put_digits(at, d->second_of_day / 3600, 2);
    *at++ = ':';
    at = put_digits(at, d->second_of_day / 60 % 60, 2);
    *at++ = ':';
    at = put_digits(at, d->second_of_day % 60, 2);
    *at++ = ' ';
    *at++ = d->zone_negative ? '-' : '+';
    return put_digits(at, d->zone, 4);
}

void date_write_imap(struct writer *w, struct mail_date date)
{
    struct written_date d = split(date);
    char *at = writer_need(w, DATE_IMAP_SIZE);

    at = put_digits(at, d.civil.day, 2);
    *at++ = '-';
    at = put_text(at, month_names + (d.civil.month - 1) * 3, 3);
    *at++ = '-';
    at = put_digits(at, (uint32_t)d.civil.year, 4);
    w->at = put_clock_and_zone(at, &d);
}

void date_write_rfc5322(struct writer *w, struct mail_date date)
{
    struct written_date d = split(date);
    char *at = writer_need(w, DATE_RFC5322_SIZE);

    at = put_text(at, weekday_names + d.weekday * 3, 3);
    at = put_text(at, ", ", 2);
    at = put_digits(at, d.civil.day, 2);
    *at++ = ' ';
    at = put_text(at, month_names + (d.civil.month - 1) * 3, 3);
    *at++ = ' ';
    at = put_digits(at, (uint32_t)d.civil.year, 4);
    w->at = put_clock_and_zone(at, &d);
}
